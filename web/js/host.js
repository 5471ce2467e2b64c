// Everything the widgets ask of ComfyUI. Another page that shows them serves a file of its own in place of this one.

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

/** Texts that read differently than in texts.js, by locale and key. */
export const WORDING = {};

/** The language the user has set, such as "en". */
export function locale() {
  return String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "en");
}

/** URL of a file: {filename, subfolder, type: input | output | temp}. */
export function fileUrl(file) {
  const query = new URLSearchParams({
    filename: file.filename,
    subfolder: file.subfolder ?? "",
    type: file.type ?? "temp",
    rand: String(Math.random()), // never from the cache: the next run may write the same name again
  });
  return api.apiURL(`/view?${query}`);
}
