// What the server is asked. Every failure is an ApiError whose message is a sentence for people.

const ROOT = "/api/v1";

/** A request that failed; `message` says why in plain words. */
export class ApiError extends Error {}

/** Facts of the collection. */
export const collection = () => json(`${ROOT}/collection`);

/** Folders with how many photos each holds. */
export const folders = () => json(`${ROOT}/folders`);

/** A page of photos in the order of their ids: {total, photos, next}. */
export function photos({ q, folder, after, limit }, signal) {
  const asked = new URLSearchParams({ limit });
  if (q) asked.set("q", q);
  if (folder) asked.set("folder", folder);
  if (after !== null) asked.set("after", after);
  return json(`${ROOT}/photos?${asked}`, { signal });
}

/** Facts of one photo: {id, name, width, height, ...}. */
export const photo = (id) => json(`${ROOT}/photos/${id}`);

/** The photos found for examples: {matches, elapsed_ms, ...}. */
export const search = (asked, signal) => json(`${ROOT}/search`, { ...post(asked), signal });

/** A photo from this device is sent: {id, name, width, height}. */
export function upload(file) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted photo");
  return json(`${ROOT}/uploads`, { method: "POST", body: form });
}

/** Boxes as a file: a Blob. */
export const exported = async (asked) => (await answer(`${ROOT}/export`, post(asked))).blob();

/** Address of the photo of a source or an example, at most `width` pixels wide. */
export const fileUrl = (source, width) => `${addressOf(source)}/file?width=${width}`;

/** Address of a small picture of it, or of what a box shows of it. */
export const thumbnailUrl = (source, box = null) => `${addressOf(source)}/thumbnail${box ? `?box=${box.join()}` : ""}`;

/** Why a picture cannot be had, as an ApiError; null where it can. */
export const refusal = (url) => answer(url).then(() => null, (error) => error);

const addressOf = ({ photo, upload }) => (upload === undefined ? `${ROOT}/photos/${photo}` : `${ROOT}/uploads/${upload}`);

const post = (body) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

const json = async (url, options) => (await answer(url, options)).json();

async function answer(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not answer. Is `udq serve` still running, and this device connected to it?");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ApiError(problem.detail ?? `The server answered ${response.status} ${response.statusText}.`);
}
