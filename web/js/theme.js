// The widgets' style sheet, and its colours for what is drawn on a canvas.

import { element } from "./elements.js";

const NAMES = ["text", "dim", "line", "surface", "sound", "voice", "gap", "source", "result", "found", "missing", "faded"];

/** Add the style sheet to the page, once. */
export function addStyleSheet() {
  const href = new URL("../latentsync.css", import.meta.url).href;
  if (document.querySelector(`link[href="${href}"]`)) return;
  // As colours, not as words: a canvas does not understand light-dark().
  const rules = NAMES.map((name) => `@property --ls-${name} { syntax: "<color>"; inherits: true; initial-value: #888; }`);
  document.head.append(element("style", "", {}, rules.join("\n")));
  document.head.append(element("link", "", { rel: "stylesheet", href }));
}

/** {name: CSS colour} as they apply to an element now. */
export function colours(target) {
  const style = getComputedStyle(target);
  return Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--ls-${name}`).trim() || "#888"]));
}

/** Call back when the user chooses another theme, and when the style sheet has arrived. */
export function onThemeChange(callback) {
  const observer = new MutationObserver(() => requestAnimationFrame(callback));
  for (const node of [document.documentElement, document.body])
    observer.observe(node, { attributes: true, attributeFilter: ["class", "style"] });
  document.querySelector('link[href$="/latentsync.css"]')?.addEventListener("load", callback);
  return () => observer.disconnect();
}
