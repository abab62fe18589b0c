// The state of the page as one immutable object, and functions from one state to the next.
//
// A source is a photo to draw on: {photo: id, name, width, height} of the collection, or {upload: id, name, width, height}.
// An example is a source with a box (null for the whole photo) and a kind: "drawn" by hand, or a result that the user
// marked "right" or "wrong". Marks are the examples that the next refinement adds to the search.

export const FIRST_K = 20;

/** The initial state. */
export const fresh = () => ({
  source: null, // the photo that is open for drawing
  adding: false, // whether the user is choosing another photo for one more example
  examples: [], // of the current search
  active: null, // index of the example that is being adjusted; null if the next box is a new example
  marks: [],
  k: FIRST_K,
  minScore: null,
  rerank: "", // rerank stages, separated by commas
});

/** Whether two examples or sources have the same photo. */
export const samePhoto = (a, b) => (a.upload === undefined ? a.photo === b.photo : a.upload === b.upload);

const sameExample = (a, b) => samePhoto(a, b) && a.kind === b.kind && String(a.box) === String(b.box);

/** Open a photo for drawing: for one more example if `adding`, otherwise for a new search. */
export function opened(state, source) {
  return state.adding ? { ...state, source, adding: false, active: null } : { ...fresh(), source };
}

/** Add a box on the open photo; or change the box of the active example, and of the mark that it came from. */
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

/** Remove an example, and the mark that it came from. */
export function without(state, index) {
  const removed = state.examples[index];
  return {
    ...state,
    minScore: null,
    examples: state.examples.toSpliced(index, 1),
    active: state.active === null || state.active === index ? null : state.active - (index < state.active ? 1 : 0),
    marks: state.marks.filter((mark) => !sameExample(mark, removed)),
  };
}

/**
 * Mark a result as "right" or "wrong", or remove the mark if it has this kind already. Its box is searched with as many
 * digits as a link has: otherwise a link would reproduce a slightly different search.
 */
export function marked(state, match, kind) {
  const { id, image, width, height } = match;
  const box = match.box.map((side) => +side.toFixed(1));
  const others = state.marks.filter((mark) => mark.photo !== id);
  if (kindOf(state, id) === kind) return { ...state, marks: others };
  return { ...state, marks: [...others, { photo: id, name: image, width, height, box, kind }] };
}

/** The mark of a photo: "right", "wrong" or null. */
export const kindOf = (state, id) => state.marks.find((mark) => mark.photo === id)?.kind ?? null;

/** A search with the drawn examples and the current marks. */
export function refined(state) {
  const examples = [...state.examples.filter(({ kind }) => kind === "drawn"), ...state.marks];
  const active = state.active === null ? -1 : examples.findIndex((each) => sameExample(each, state.examples[state.active]));
  return { ...state, minScore: null, examples, active: active === -1 ? null : active };
}

/** Whether refining would change the examples of the search. */
export function canRefine(state) {
  const searched = state.examples.filter((example) => example.kind !== "drawn");
  return (
    searched.length !== state.marks.length ||
    state.marks.some((mark) => !searched.some((example) => sameExample(example, mark)))
  );
}

/** Whether there is an example to search for: wrong examples alone are not enough. */
export const canSearch = (state) => state.examples.some((example) => example.kind !== "wrong");

/** The body of POST /search. The page applies the minimum score itself, so that the slider has no delay. */
export function request({ examples, k, rerank }) {
  const items = examples.map(({ photo, upload, box, kind }) => ({
    ...(upload === undefined ? { photo } : { upload }),
    box,
    wrong: kind === "wrong",
  }));
  return { examples: items, k, rerank: rerank ? rerank.split(",").filter((stage) => stage !== "none") : null };
}

// ---- The link: #drawn=12:81,20,478,386&right=45:...&k=40&min=1.5; `photo` is an open photo without a box.

const PENDING = { right: "marked-right", wrong: "marked-wrong" };

/** Whether a link can represent the state: uploads have no permanent address. */
export const isLinkable = ({ source, examples }) => ![source, ...examples].some((each) => each?.upload !== undefined);

/** The part of the URL after "#", without uploads. */
export function toLink(state) {
  const params = new URLSearchParams();
  const add = (name, { photo, box }) =>
    photo !== undefined && params.append(name, `${photo}:${box ? box.join() : "whole"}`);
  const open = openExample(state.examples);
  if (state.source?.photo !== undefined && !(open && samePhoto(open, state.source))) params.append("photo", state.source.photo);
  for (const example of state.examples) add(example.kind, example);
  for (const mark of state.marks) {
    if (!state.examples.some((example) => sameExample(example, mark))) add(PENDING[mark.kind], mark);
  }
  if (state.k !== FIRST_K) params.append("k", state.k);
  if (state.minScore !== null) params.append("min", state.minScore);
  if (state.rerank) params.append("rerank", state.rerank);
  return params.toString().replaceAll("%3A", ":").replaceAll("%2C", ",");
}

/**
 * The state of a link; its photos have no names and sizes yet. Throws an Error with a message for the user if the link
 * is invalid.
 */
export function fromLink(link) {
  const params = new URLSearchParams(link);
  const state = fresh();
  for (const [name, value] of params) {
    const kind = ["drawn", "right", "wrong"].find((each) => each === name || PENDING[each] === name);
    if (kind) {
      const example = { ...exampleOf(value), kind };
      if (name === kind) state.examples.push(example);
      if (kind !== "drawn") state.marks.push(example);
    } else if (name === "photo") state.source = { photo: count(value) };
    else if (name === "k") state.k = count(value);
    else if (name === "min" && Number.isFinite(Number(value))) state.minScore = Number(value);
    else if (name === "rerank" && /^[a-z,-]{1,60}$/.test(value)) state.rerank = value;
    else throw new Error(`This link contains “${name}=${value}”, which this page does not understand.`);
  }
  const open = openExample(state.examples);
  if (!state.source && open) {
    state.source = { photo: open.photo };
    state.active = state.examples.indexOf(open);
  }
  return state;
}

// The example whose photo is open if a link has no `photo`.
const openExample = (examples) => examples.findLast(({ kind }) => kind === "drawn") ?? examples[0];

function exampleOf(value) {
  const [photo, box] = value.split(":");
  if (box === "whole") return { photo: count(photo), box: null };
  const sides = (box ?? "").split(",").map(Number);
  if (sides.length !== 4 || !sides.every(Number.isFinite)) {
    throw new Error(`This link contains “${value}”: expected a photo and a box, such as 12:81,20,478,386.`);
  }
  return { photo: count(photo), box: sides };
}

function count(value) {
  if (!/^\d{1,9}$/.test(value)) throw new Error(`This link contains “${value}”: expected a number.`);
  return Number(value);
}
