// Files of the server, named as the host names them: {filename, subfolder, type: input | output | temp}.

import { api } from "../../../scripts/api.js";

/** URL of a file for <img> and <video>. Never from the cache: the next run may write the same name again. */
export function viewUrl(file) {
  const query = new URLSearchParams({
    filename: file.filename,
    subfolder: file.subfolder ?? "",
    type: file.type ?? "temp",
    rand: String(Math.random()),
  });
  return api.apiURL(`/view?${query}`);
}

/** Promise of the decoded image; rejects with the file's name where the server has it no more. */
export function loadImage(file) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error(file.filename));
    image.src = viewUrl(file);
  });
}
