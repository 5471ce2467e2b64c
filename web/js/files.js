// Files of the server, named as the host names them, see host.js.

import { fileUrl } from "./host.js";

/** Promise of the decoded image; rejects with the file's name where the server has it no more. */
export function loadImage(file) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = () => reject(new Error(file.filename));
    image.src = fileUrl(file);
  });
}
