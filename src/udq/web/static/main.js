// The page as a whole: its state, what each gesture makes of it, and its parts shown anew.

import * as api from "./api.js";
import { BoxEditor } from "./box-editor.js";
import { Browse } from "./browse.js";
import { byId } from "./dom.js";
import { Examples } from "./examples.js";
import { accepted, Export } from "./export.js";
import { announce, complain, counted, settle, sized } from "./messages.js";
import { Results } from "./results.js";
import * as states from "./state.js";
import { Viewer } from "./viewer.js";

const STAGE = 1600; // pixels of width that a photo to draw on is loaded with
const MOST_MATCHES = 1000; // that the server gives
const TOUCH = matchMedia("(pointer: coarse)").matches;

let state = states.fresh();
let matches = []; // of the last search
let searching = null; // AbortController of the search that is on its way

const browse = new Browse({ source: (source) => open(source) });
const editor = new BoxEditor(byId("stage"), {
  box: (box) => search(states.drawn(state, box)),
  draft: (box) => hint(box),
  pick: (place) => go({ ...state, active: boxesHere()[place].index }),
  clear: () => search(states.without(state, state.active)),
});
const examples = new Examples(byId("examples"), {
  pick: (index) => show(index),
  remove: (index) => search(states.without(state, index)),
});
const results = new Results(byId("results"), {
  open: (index) => viewer.open(matches, index),
  mark: (match, kind) => mark(match, kind),
});
const viewer = new Viewer({
  mark: (match, kind) => mark(match, kind),
  close: (index) => results.focus(index),
  from: ({ id, image, width, height, box }) => {
    const here = states.opened({ ...state, adding: false }, { photo: id, name: image, width, height });
    search(states.drawn(here, box.map(Math.round)));
    byId("stage").focus();
  },
});
const exporting = new Export();

// ---- What gestures do.

function open(source) {
  go(states.opened(state, source));
  scrollTo(0, 0);
  byId("stage").focus({ preventScroll: true });
}

function choose(next) {
  go(next);
  byId("grid").focus({ preventScroll: true });
}

function show(index) {
  const { photo, upload, name, width, height } = state.examples[index];
  go({ ...state, source: { photo, upload, name, width, height }, active: index });
}

function mark(match, kind) {
  go(states.marked(state, match, kind), { anew: false });
  const now = states.kindOf(state, match.id);
  announce(now ? `${match.image} is marked ${now}.` : `${match.image} is not marked any more.`);
}

/** Take a state for the present one, and search for its examples. */
async function search(next, { anew = true } = {}) {
  const released = performance.now();
  go(next, { anew });
  searching?.abort();
  if (!states.canSearch(state)) return;
  searching = new AbortController();
  const { signal } = searching;
  byId("results").setAttribute("aria-busy", "true");
  byId("took").textContent = byId("no-results").textContent = "Searching…";
  try {
    const answer = await api.search(states.request(state), signal);
    settle();
    found(answer.matches);
    requestAnimationFrame(() => took(answer, performance.now() - released));
    const title = byId("results-title");
    if (title.getBoundingClientRect().top < 0) title.scrollIntoView();
  } catch (error) {
    if (error.name === "AbortError") return;
    found([]);
    byId("no-results").textContent = "The search did not succeed.";
    complain(error, () => search(state, { anew: false }));
  }
}

/** Take a state for the present one; `anew` makes it a step of the browser's history. */
function go(next, { anew = true } = {}) {
  const link = `#${states.toLink(next)}`;
  if (anew && link !== (location.hash || "#")) history.pushState(next, "", link);
  else history.replaceState(next, "", link);
  state = next;
  if (!states.canSearch(state)) {
    searching?.abort();
    found([]);
  }
  render();
}

/** Take the state from the address: after Back, or with a link that somebody sent. */
async function restore() {
  searching?.abort();
  if (history.state) state = history.state;
  else {
    try {
      state = await named(states.fromLink(location.hash.slice(1)));
    } catch (error) {
      state = states.fresh();
      complain(error);
    }
  }
  viewer.close();
  // The least score is the link's: a search would begin without one.
  await search(state, { anew: false });
}

/** A state from a link with the names and sizes of its photos. */
async function named(linked) {
  const mentioned = [linked.source, ...linked.examples, ...linked.marks].filter(Boolean);
  const ids = [...new Set(mentioned.map(({ photo }) => photo))];
  const facts = new Map(await Promise.all(ids.map(async (id) => [id, await api.photo(id)])));
  const whole = (example) => {
    const { name, width, height } = facts.get(example.photo);
    return { ...example, name, width, height };
  };
  return {
    ...linked,
    source: linked.source && whole(linked.source),
    examples: linked.examples.map(whole),
    marks: linked.marks.map(whole),
  };
}

// ---- What is seen.

/** The examples with a box on the photo that is shown, with their places among all. */
function boxesHere() {
  return state.examples
    .map((example, index) => ({ ...example, index }))
    .filter((example) => example.box && states.samePhoto(example, state.source));
}

function render() {
  const browsing = !state.source || state.adding;
  document.body.dataset.view = browsing ? "browse" : "search";
  byId("browse").hidden = !browsing;
  byId("search").hidden = browsing;
  if (browsing) return browse.show(state.adding);
  const { name, width, height } = state.source;
  const here = boxesHere();
  byId("source-name").textContent = name;
  byId("stage").setAttribute("aria-label", `${name}, ${width} by ${height} pixels: draw a box round the object`);
  const active = here.findIndex(({ index }) => index === state.active);
  editor.show({
    url: api.fileUrl(state.source, STAGE),
    name,
    size: { width, height },
    boxes: here,
    active: active === -1 ? null : active,
  });
  examples.show(state.examples, state.active);
  byId("add-here").hidden = byId("add-there").hidden = !state.examples.length;
  byId("add-here").setAttribute("aria-pressed", String(state.active === null));
  byId("skip").hidden = !matches.length;
  hint(null);
  marks();
}

function hint(draft) {
  const words = {
    first: TOUCH ? "Draw a box round the object." : "Draw a box round the object, or press Enter for one to move.",
    more: "Draw one more box of the same object.",
    adjust: "Drag the box or its edges to adjust it, or draw another.",
    draft: `Box ${draft?.join(", ")}. ${TOUCH ? "Let go" : "Release, or press Enter,"} to search.`,
  };
  const key = draft ? "draft" : !state.examples.length ? "first" : state.active === null ? "more" : "adjust";
  byId("hint").textContent = words[key];
}

/** What was marked and what passes the threshold. */
function marks() {
  const kindOf = (id) => states.kindOf(state, id);
  const shown = results.update(kindOf, state.minScore);
  viewer.update(kindOf);
  byId("least-score").textContent = state.minScore === null ? "any" : state.minScore.toFixed(2);
  const right = state.marks.filter(({ kind }) => kind === "right").length;
  byId("refine-bar").hidden = !state.marks.length && !states.canRefine(state);
  byId("refine-text").textContent = `${right} right, ${state.marks.length - right} wrong`;
  byId("refine").hidden = !states.canRefine(state);
  byId("no-results").hidden = shown > 0;
  if (matches.length && !shown) byId("no-results").textContent = "No photo scores that high. Lower the least score.";
}

function found(next) {
  matches = next;
  const scores = matches.filter(({ id }) => !isQuery({ id })).map(({ score }) => score);
  const threshold = byId("threshold");
  // The query's own score is far above all others, and would leave them a small part of the slider.
  threshold.min = scores.length ? Math.floor(100 * Math.min(...scores)) / 100 : 0;
  threshold.max = scores.length ? Math.ceil(100 * Math.max(...scores)) / 100 : 1;
  threshold.value = state.minScore ?? threshold.min;
  byId("stages").value = state.rerank;
  results.show(matches, isQuery);
  byId("results").removeAttribute("aria-busy");
  for (const id of ["result-buttons", "slider", "again", "skip"]) byId(id).hidden = !matches.length;
  byId("more").hidden = matches.length < state.k || state.k >= MOST_MATCHES;
  byId("no-results").textContent = states.canSearch(state)
    ? "Nothing was found."
    : "Draw a box in the photo. The photos that show the same object appear here, best first.";
  byId("took").textContent = "";
  marks();
}

function took({ elapsed_ms: { encode, scan }, missing }, here) {
  byId("took").textContent =
    `${counted(matches.length, "photo")} in ${Math.round(here)} ms (encoding ${Math.round(encode)}, scan ${scan.toFixed(1)})` +
    (missing ? `; ${counted(missing, "photo")} could not be searched just now` : "");
  const best = matches.find((match) => !isQuery(match)) ?? matches[0];
  announce(
    best ? `${counted(matches.length, "photo")} found, best ${best.image}, score ${best.score.toFixed(2)}.` : "Nothing was found.",
  );
}

const isQuery = ({ id }) => state.examples.some(({ photo, kind }) => kind === "drawn" && photo === id);

async function about() {
  let facts;
  try {
    facts = await api.collection();
  } catch (error) {
    return complain(error, about);
  }
  document.title = `${facts.name} · udq`;
  byId("collection-name").textContent = facts.name;
  byId("collection-facts").textContent = `${counted(facts.photos, "photo")} · ${counted(facts.regions, "region")}`;
  byId("about").textContent =
    `${facts.bytes_per_region} bytes a region, ${sized(facts.bytes_on_disk)} on disk; ` +
    `${facts.model}; scan ${facts.scan}; udq ${facts.version}`;
}

// ---- Listeners.

const on = (id, happens, act) => byId(id).addEventListener(happens, act);

on("home", "click", (event) => {
  event.preventDefault();
  choose(states.fresh());
});
on("skip", "click", (event) => {
  event.preventDefault(); // the part of the address after "#" is the search
  byId("results-title").focus();
});
on("new-search", "click", () => choose(states.fresh()));
on("add-there", "click", () => choose({ ...state, adding: true }));
on("cancel-adding", "click", () => {
  go({ ...state, adding: false });
  byId("stage").focus();
});
on("add-here", "click", () => {
  go({ ...state, active: null });
  byId("stage").focus();
});
on("whole", "click", () => search(states.drawn(state, null)));
on("refine", "click", () => {
  search(states.refined(state));
  byId("results-title").focus();
});
on("clear-marks", "click", () => go({ ...state, marks: [] }, { anew: false }));
on("more", "click", () => search({ ...state, k: Math.min(2 * state.k, MOST_MATCHES) }));
on("export", "click", () => exporting.open(accepted(state, matches)));
on("threshold", "input", ({ target }) => {
  state = { ...state, minScore: target.value === target.min ? null : Number(target.value) };
  marks();
});
on("threshold", "change", () => go(state, { anew: false }));
on("stages", "change", ({ target }) => search({ ...state, minScore: null, rerank: target.value }));
on("copy", "click", async () => {
  if (!states.isLinkable(state)) {
    return complain(new Error("A photo of your own cannot be part of a link: only this server's copy, kept for an hour, knows it."));
  }
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy link"), 2000);
    announce("The link to this search is copied.");
  } catch {
    complain(new Error("This browser does not let a page copy. The address bar holds the link to this search."));
  }
});
// A picture that does not come: its place says so, and the photo to draw on says why.
addEventListener(
  "error",
  async ({ target }) => {
    if (!(target instanceof HTMLImageElement)) return;
    target.classList.add("gone");
    if (target.closest("#stage, #viewer")) complain((await api.refusal(target.src)) ?? new Error("This photo cannot be shown."));
  },
  true,
);
addEventListener("load", ({ target }) => target instanceof HTMLImageElement && target.classList.remove("gone"), true);
addEventListener("popstate", restore);

about();
browse.start();
restore();
