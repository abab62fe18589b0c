// The page: its state, the actions of the user, and rendering.

import * as api from "./api.js";
import { BoxEditor } from "./box-editor.js";
import { Browse } from "./browse.js";
import { byId } from "./dom.js";
import { Examples } from "./examples.js";
import { accepted, Export } from "./export.js";
import { announce, clearError, counted, formatBytes, showError } from "./messages.js";
import { Results } from "./results.js";
import * as states from "./state.js";
import { Viewer } from "./viewer.js";

const STAGE = 1600; // width in pixels of the photo for drawing
const MAX_MATCHES = 1000; // limit of the server
const TOUCH = matchMedia("(pointer: coarse)").matches;

let state = states.fresh();
let matches = []; // of the last search
let searching = null; // AbortController of the search in progress

const browse = new Browse({ source: (source) => open(source) });
const editor = new BoxEditor(byId("stage"), {
  box: (box) => search(states.drawn(state, box)),
  draft: (box) => hint(box),
  pick: (position) => setState({ ...state, active: boxesHere()[position].index }),
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

// ---- Actions.

function open(source) {
  setState(states.opened(state, source));
  scrollTo(0, 0);
  byId("stage").focus({ preventScroll: true });
}

function choose(next) {
  setState(next);
  byId("grid").focus({ preventScroll: true });
}

function show(index) {
  const { photo, upload, name, width, height } = state.examples[index];
  setState({ ...state, source: { photo, upload, name, width, height }, active: index });
}

function mark(match, kind) {
  setState(states.marked(state, match, kind), { push: false });
  const now = states.kindOf(state, match.id);
  announce(now ? `${match.image} is marked ${now}.` : `${match.image} is no longer marked.`);
}

/** Set the state, and search for its examples. */
async function search(next, { push = true } = {}) {
  const released = performance.now();
  setState(next, { push });
  searching?.abort();
  if (!states.canSearch(state)) return;
  searching = new AbortController();
  const { signal } = searching;
  byId("results").setAttribute("aria-busy", "true");
  byId("took").textContent = byId("no-results").textContent = "Searching…";
  const seconds = () => Math.round((performance.now() - released) / 1000);
  const ticking = setInterval(() => (byId("took").textContent = `Searching… ${seconds()} s`), 1000);
  signal.addEventListener("abort", () => clearInterval(ticking));
  try {
    const response = await api.search(states.request(state), signal).finally(() => clearInterval(ticking));
    clearError();
    showMatches(response.matches);
    requestAnimationFrame(() => showTiming(response, performance.now() - released));
    const title = byId("results-title");
    if (title.getBoundingClientRect().top < 0) title.scrollIntoView();
  } catch (error) {
    if (error.name === "AbortError") return;
    showMatches([]);
    byId("no-results").textContent = "The search failed.";
    showError(error, () => search(state, { push: false }));
  }
}

/** Set the state; `push` adds an entry to the browser's history. */
function setState(next, { push = true } = {}) {
  const link = `#${states.toLink(next)}`;
  if (push && link !== (location.hash || "#")) history.pushState(next, "", link);
  else history.replaceState(next, "", link);
  state = next;
  if (!states.canSearch(state)) {
    searching?.abort();
    showMatches([]);
  }
  render();
}

/** Set the state from the browser's history, or from the link in the address bar. */
async function restore() {
  searching?.abort();
  if (history.state) state = history.state;
  else {
    try {
      state = await completed(states.fromLink(location.hash.slice(1)));
    } catch (error) {
      state = states.fresh();
      showError(error);
    }
  }
  viewer.close();
  // Keeps the minimum score of the link.
  await search(state, { push: false });
}

/** Complete the state of a link with the names and sizes of its photos. */
async function completed(linked) {
  const linkedPhotos = [linked.source, ...linked.examples, ...linked.marks].filter(Boolean);
  const ids = [...new Set(linkedPhotos.map(({ photo }) => photo))];
  const facts = new Map(await Promise.all(ids.map(async (id) => [id, await api.photo(id)])));
  const complete = (example) => {
    const { name, width, height } = facts.get(example.photo);
    return { ...example, name, width, height };
  };
  return {
    ...linked,
    source: linked.source && complete(linked.source),
    examples: linked.examples.map(complete),
    marks: linked.marks.map(complete),
  };
}

// ---- Rendering.

/** The examples with a box on the open photo, each with its index among all examples. */
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
  renderMarks();
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

/** Render marks and the minimum score. */
function renderMarks() {
  const kindOf = (id) => states.kindOf(state, id);
  const shown = results.update(kindOf, state.minScore);
  viewer.update(kindOf);
  byId("min-score").textContent = state.minScore === null ? "any" : state.minScore.toFixed(2);
  const right = state.marks.filter(({ kind }) => kind === "right").length;
  byId("refine-bar").hidden = !state.marks.length && !states.canRefine(state);
  byId("refine-text").textContent = `${right} right, ${state.marks.length - right} wrong`;
  byId("refine").hidden = !states.canRefine(state);
  byId("no-results").hidden = shown > 0;
  if (matches.length && !shown) byId("no-results").textContent = "No photo has this score. Lower the minimum score.";
}

function showMatches(next) {
  matches = next;
  const scores = matches.filter((match) => !isQuery(match)).map(({ score }) => score);
  const threshold = byId("threshold");
  // Without the query's own photo: its score is far above all others and would compress them on the slider.
  threshold.min = scores.length ? Math.floor(100 * Math.min(...scores)) / 100 : 0;
  threshold.max = scores.length ? Math.ceil(100 * Math.max(...scores)) / 100 : 1;
  threshold.value = state.minScore ?? threshold.min;
  byId("stages").value = state.rerank;
  results.show(matches, isQuery);
  byId("results").removeAttribute("aria-busy");
  for (const id of ["result-buttons", "slider", "rerank", "skip"]) byId(id).hidden = !matches.length;
  byId("more").hidden = matches.length < state.k || state.k >= MAX_MATCHES;
  byId("no-results").textContent = states.canSearch(state)
    ? "No photos found."
    : "Draw a box in the photo. The photos that show the same object appear here, best first.";
  byId("took").textContent = "";
  renderMarks();
}

function showTiming({ elapsed_ms: { encode, scan }, missing }, elapsed) {
  byId("took").textContent =
    `${counted(matches.length, "photo")} in ${Math.round(elapsed)} ms (encoding ${Math.round(encode)}, scan ${scan.toFixed(1)})` +
    (missing ? `; ${counted(missing, "photo")} could not be searched` : "");
  const best = matches.find((match) => !isQuery(match)) ?? matches[0];
  announce(
    best ? `${counted(matches.length, "photo")} found, best ${best.image}, score ${best.score.toFixed(2)}.` : "No photos found.",
  );
}

const isQuery = ({ id, copies }) =>
  state.examples.some(({ photo, kind }) => kind === "drawn" && (photo === id || copies.some((copy) => copy.id === photo)));

async function showCollection() {
  let facts;
  try {
    facts = await api.collection();
  } catch (error) {
    return showError(error, showCollection);
  }
  document.title = `${facts.name} · udq`;
  byId("collection-name").textContent = facts.name;
  byId("collection-facts").textContent = `${counted(facts.photos, "photo")} · ${counted(facts.regions, "region")}`;
  byId("about").textContent =
    `${facts.bytes_per_region} bytes per region, ${formatBytes(facts.bytes_on_disk)} on disk; ` +
    `${facts.model}; scan ${facts.scan}; udq ${facts.version}`;
}

// ---- Listeners.

const on = (id, event, action) => byId(id).addEventListener(event, action);

on("home", "click", (event) => {
  event.preventDefault();
  choose(states.fresh());
});
on("skip", "click", (event) => {
  event.preventDefault(); // the fragment of the URL is the search
  byId("results-title").focus();
});
on("new-search", "click", () => choose(states.fresh()));
on("add-there", "click", () => choose({ ...state, adding: true }));
on("cancel-adding", "click", () => {
  setState({ ...state, adding: false });
  byId("stage").focus();
});
on("add-here", "click", () => {
  setState({ ...state, active: null });
  byId("stage").focus();
});
on("whole", "click", () => search(states.drawn(state, null)));
on("refine", "click", () => {
  search(states.refined(state));
  byId("results-title").focus();
});
on("clear-marks", "click", () => setState({ ...state, marks: [] }, { push: false }));
on("more", "click", () => search({ ...state, k: Math.min(2 * state.k, MAX_MATCHES) }));
on("export", "click", () => exporting.open(accepted(state, matches)));
on("threshold", "input", ({ target }) => {
  state = { ...state, minScore: target.value === target.min ? null : Number(target.value) };
  renderMarks();
});
on("threshold", "change", () => setState(state, { push: false }));
on("stages", "change", ({ target }) => search({ ...state, minScore: null, rerank: target.value }));
on("copy", "click", async () => {
  if (!states.isLinkable(state)) {
    return showError(new Error("An uploaded photo cannot be part of a link: the server deletes it after an hour."));
  }
  try {
    await navigator.clipboard.writeText(location.href);
    byId("copy").textContent = "Copied";
    setTimeout(() => (byId("copy").textContent = "Copy link"), 2000);
    announce("The link to this search is copied.");
  } catch {
    showError(new Error("This browser does not allow copying. The link to this search is in the address bar."));
  }
});
// Images that fail to load show a placeholder; the reason is shown for the photo for drawing and the large result.
addEventListener(
  "error",
  async ({ target }) => {
    if (!(target instanceof HTMLImageElement)) return;
    target.classList.add("failed");
    if (target.closest("#stage, #viewer")) showError((await api.imageError(target.src)) ?? new Error("This photo cannot be shown."));
  },
  true,
);
addEventListener("load", ({ target }) => target instanceof HTMLImageElement && target.classList.remove("failed"), true);
addEventListener("popstate", restore);

showCollection();
browse.start();
restore();
