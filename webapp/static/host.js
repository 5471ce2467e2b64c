// Everything the widgets ask of this page; ComfyUI has a host.js of its own, see web/js.

const GONE = "Results are removed after some time.";

/** Texts that read differently than in ComfyUI. */
export const WORDING = {
  en: {
    empty: "The result will be shown here beside the source, with what happened in each frame.",
    resultMissing: `The result cannot be played: it is gone, or the browser cannot play it. ${GONE}`,
    sourceMissing: "The source cannot be shown: it is gone, or the browser cannot play its format. Only the result plays.",
  },
};

/** The page is in English. */
export function locale() {
  return "en";
}

/** URL of a result's file: {subfolder, filename}. */
export function fileUrl({ subfolder, filename }) {
  return new URL(`results/${encodeURIComponent(subfolder)}/${encodeURIComponent(filename)}`, document.baseURI).href;
}
