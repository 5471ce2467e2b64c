// Building DOM elements, and the few icons of the widgets.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  play: "M7 4.5v15l12.5-7.5z",
  pause: "M6.5 5h3.5v14H6.5zM14 5h3.5v14H14z",
  sound: "M4 9.5v5h3.5l4.5 4v-13l-4.5 4zM14.5 8.2a5 5 0 0 1 0 7.6l1.2 1.4a6.9 6.9 0 0 0 0-10.4z",
  silent: "M4 9.5v5h3.5l4.5 4v-13l-4.5 4zM15 9.4l1.2-1.2 2.3 2.3 2.3-2.3L22 9.4l-2.3 2.3L22 14l-1.2 1.2-2.3-2.3-2.3 2.3L15 14l2.3-2.3z",
  enlarge: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z",
};

/** <tag class=... ...attributes>children</tag>; null children are left out. */
export function element(tag, className, attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children.filter((child) => child != null));
  return node;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows an icon; `label` is its tooltip and what a screen reader says. */
export function iconButton(name, label, onClick) {
  const button = element("button", "ls-button", { type: "button" });
  button.addEventListener("click", onClick);
  setIcon(button, name, label);
  return button;
}

export function setIcon(button, name, label) {
  button.replaceChildren(icon(name));
  button.title = label;
  button.setAttribute("aria-label", label);
}

/**
 * Keep a drag on this element from the node below it, which would move with it.
 * Only the left button: the middle one pans the graph.
 */
export function dragHere(target, onMove) {
  target.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.stopPropagation();
    event.preventDefault();
    target.focus({ preventScroll: true });
    target.setPointerCapture(event.pointerId);
    onMove(event);
  });
  target.addEventListener("pointermove", (event) => {
    if (!target.hasPointerCapture(event.pointerId)) return;
    event.stopPropagation();
    onMove(event);
  });
  target.addEventListener("pointerup", (event) => {
    if (target.hasPointerCapture(event.pointerId)) event.stopPropagation();
  });
}

/** Where a pointer is within an element: 0 left .. 1 right, whatever the zoom of the graph. */
export function fractionAcross(target, event) {
  const box = target.getBoundingClientRect();
  return Math.min(1, Math.max(0, (event.clientX - box.left) / Math.max(1, box.width)));
}
