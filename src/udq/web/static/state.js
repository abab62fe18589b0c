// What the page knows, as one object that is never changed, and the steps that make the next one from it.
//
// A source is a photo to draw on: {photo: id, name, width, height} of the collection, or {upload: id, name, width, height}.
// An example is a source with a box, null for the whole photo, and a kind: "drawn" by hand, or a result that somebody
// marked "right" or "wrong". Marks are examples that the next refinement will search with.

export const FIRST_K = 20;

/** The state of somebody who has just come. */
export const fresh = () => ({
  source: null, // that is shown to be drawn on
  adding: false, // another photo is being chosen, for one more example
  examples: [], // of the search
  active: null, // the one that is adjusted, if any; else the next box is a new one
  marks: [],
  k: FIRST_K,
  minScore: null,
  rerank: "", // stages that rank again, with commas between them
});

/** Whether two examples or sources are of the same photo. */
export const samePhoto = (a, b) => (a.upload === undefined ? a.photo === b.photo : a.upload === b.upload);

const sameExample = (a, b) => samePhoto(a, b) && a.kind === b.kind && String(a.box) === String(b.box);

/** A photo is opened to draw on: for one more example where that is wanted, else for a search of its own. */
export function opened(state, source) {
  return state.adding ? { ...state, source, adding: false, active: null } : { ...fresh(), source };
}

/** A box is drawn on the opened photo, or the active one changed, and with it the mark that it came from. */
export function drawn(state, box) {
  if (state.active === null) {
    const example = { ...state.source, box, kind: "drawn" };
    return { ...state, minScore: null, examples: [...state.examples, example], active: state.examples.length };
  }
  const before = state.examples[state.active];
  const example = { ...before, box };
  return {
    ...state,
    minScore: null,
    examples: state.examples.with(state.active, example),
    marks: state.marks.map((mark) => (sameExample(mark, before) ? example : mark)),
  };
}

/** One example is taken away, with the mark that it came from. */
export function without(state, index) {
  const gone = state.examples[index];
  return {
    ...state,
    minScore: null,
    examples: state.examples.toSpliced(index, 1),
    active: state.active === null || state.active === index ? null : state.active - (index < state.active ? 1 : 0),
    marks: state.marks.filter((mark) => !sameExample(mark, gone)),
  };
}

/** A result is marked "right" or "wrong"; marked so again, it is no longer. */
export function marked(state, match, kind) {
  const { id, image, width, height, box } = match;
  const others = state.marks.filter((mark) => mark.photo !== id);
  if (kindOf(state, id) === kind) return { ...state, marks: others };
  return { ...state, marks: [...others, { photo: id, name: image, width, height, box, kind }] };
}

/** How a photo is marked: "right", "wrong" or null. */
export const kindOf = (state, id) => state.marks.find((mark) => mark.photo === id)?.kind ?? null;

/** The search with all marks among its examples, and with no others that were marks once. */
export function refined(state) {
  const examples = [...state.examples.filter(({ kind }) => kind === "drawn"), ...state.marks];
  const active = state.active === null ? -1 : examples.findIndex((each) => sameExample(each, state.examples[state.active]));
  return { ...state, minScore: null, examples, active: active === -1 ? null : active };
}

/** Whether refining would search with other examples than the last search. */
export function canRefine(state) {
  const searched = state.examples.filter((example) => example.kind !== "drawn");
  return (
    searched.length !== state.marks.length ||
    state.marks.some((mark) => !searched.some((example) => sameExample(example, mark)))
  );
}

/** Whether there is anything to search for: wrong examples alone say nothing of what is right. */
export const canSearch = (state) => state.examples.some((example) => example.kind !== "wrong");

/** What the server is asked. The least score is left to the page, so that the slider answers at once. */
export function request({ examples, k, rerank }) {
  const asked = examples.map(({ photo, upload, box, kind }) => ({
    ...(upload === undefined ? { photo } : { upload }),
    box,
    wrong: kind === "wrong",
  }));
  return { examples: asked, k, rerank: rerank ? rerank.split(",") : [] };
}

// ---- The link: #drawn=12:81,20,478,386&right=45:...&k=40&min=1.5, with `photo` for one that has no box yet.

const PENDING = { right: "marked-right", wrong: "marked-wrong" };

/** Whether a link can say everything: uploaded photos stay with whoever uploaded them. */
export const isLinkable = ({ source, examples }) => ![source, ...examples].some((each) => each?.upload !== undefined);

/** The part of the address after "#"; what was uploaded is left out. */
export function toLink(state) {
  const said = new URLSearchParams();
  const add = (name, { photo, box }) =>
    photo !== undefined && said.append(name, `${photo}:${box ? box.map((side) => +side.toFixed(1)).join() : "whole"}`);
  const shown = shownOf(state.examples);
  if (state.source?.photo !== undefined && !(shown && samePhoto(shown, state.source))) said.append("photo", state.source.photo);
  for (const example of state.examples) add(example.kind, example);
  for (const mark of state.marks) {
    if (!state.examples.some((example) => sameExample(example, mark))) add(PENDING[mark.kind], mark);
  }
  if (state.k !== FIRST_K) said.append("k", state.k);
  if (state.minScore !== null) said.append("min", state.minScore);
  if (state.rerank) said.append("rerank", state.rerank);
  return said.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
}

/**
 * The state that a link describes; sources have no names and sizes yet. Raises an Error whose message is for people
 * where the link says something that no page has written.
 */
export function fromLink(link) {
  const said = new URLSearchParams(link);
  const state = fresh();
  for (const [name, value] of said) {
    const kind = ["drawn", "right", "wrong"].find((each) => each === name || PENDING[each] === name);
    if (kind) {
      const example = { ...exampleOf(value), kind };
      if (name === kind) state.examples.push(example);
      if (kind !== "drawn") state.marks.push(example);
    } else if (name === "photo") state.source = { photo: count(value) };
    else if (name === "k") state.k = count(value);
    else if (name === "min" && Number.isFinite(Number(value))) state.minScore = Number(value);
    else if (name === "rerank" && /^[a-z,-]{1,60}$/.test(value)) state.rerank = value;
    else throw new Error(`This link says “${name}=${value}”, which this page does not understand.`);
  }
  const shown = shownOf(state.examples);
  if (!state.source && shown) {
    state.source = { photo: shown.photo };
    state.active = state.examples.indexOf(shown);
  }
  return state;
}

// The example whose photo is shown where a link names no other.
const shownOf = (examples) => examples.findLast(({ kind }) => kind === "drawn") ?? examples[0];

function exampleOf(value) {
  const [photo, box] = value.split(":");
  if (box === "whole") return { photo: count(photo), box: null };
  const sides = (box ?? "").split(",").map(Number);
  if (sides.length !== 4 || !sides.every(Number.isFinite)) {
    throw new Error(`This link holds “${value}” where a photo and a box belong, such as 12:81,20,478,386.`);
  }
  return { photo: count(photo), box: sides };
}

function count(value) {
  if (!/^\d{1,9}$/.test(value)) throw new Error(`This link holds “${value}” where a number belongs.`);
  return Number(value);
}
