// Requests to the HTTP API. Every failure is an ApiError with a message for the user.

// Relative to the page, which a proxy may serve below a path.
const ROOT = "api/v1";

/** A failed request; `message` states the reason. */
export class ApiError extends Error {}

/** Contents and settings of the collection. */
export const collection = () => json(`${ROOT}/collection`);

/** Folders with the number of photos in each. */
export const folders = () => json(`${ROOT}/folders`);

/** A page of photos in the order of their ids: {total, photos, next}. */
export function photos({ q, folder, after, limit }, signal) {
  const query = new URLSearchParams({ limit });
  if (q) query.set("q", q);
  if (folder) query.set("folder", folder);
  if (after !== null) query.set("after", after);
  return json(`${ROOT}/photos?${query}`, { signal });
}

/** One photo: {id, name, width, height, ...}. */
export const photo = (id) => json(`${ROOT}/photos/${id}`);

/** The matches of a search: {matches, elapsed_ms, ...}. */
export const search = (body, signal) => json(`${ROOT}/search`, { ...post(body), signal });

/** Upload a photo from this device: {id, name, width, height}. */
export function upload(file) {
  const form = new FormData();
  form.append("file", file, file.name || "pasted photo");
  return json(`${ROOT}/uploads`, { method: "POST", body: form });
}

/** Boxes as a file: a Blob. */
export const exportBoxes = async (body) => (await request(`${ROOT}/export`, post(body))).blob();

/** URL of the photo of a source or an example, at most `width` pixels wide. */
export const fileUrl = (source, width) => `${urlOf(source)}/file?width=${width}`;

/** URL of its thumbnail, or of a thumbnail of the contents of a box in it. */
export const thumbnailUrl = (source, box = null) => `${urlOf(source)}/thumbnail${box ? `?box=${box.join()}` : ""}`;

/** The reason why an image cannot be loaded, as an ApiError; null if it can. */
export const imageError = (url) => request(url).then(() => null, (error) => error);

const urlOf = ({ photo, upload }) => (upload === undefined ? `${ROOT}/photos/${photo}` : `${ROOT}/uploads/${upload}`);

const post = (body) => ({
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify(body),
});

const json = async (url, options) => (await request(url, options)).json();

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server does not respond. Check that `udq serve` is running and that this device can reach it.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ApiError(problem.detail ?? `The server responded with ${response.status} ${response.statusText}.`);
}
