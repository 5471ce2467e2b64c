// What LatentSyncBlend shows: where the generated pixels go and how their edge fades, as mask_smooth would make it now.

import { element } from "./elements.js";
import { FEATHER_WIDTH, alpha, contour, ramp, signedDistance } from "./feather.js";
import { loadImage } from "./files.js";
import { text } from "./texts.js";
import { colours, onThemeChange } from "./theme.js";

const EMPTY_HEIGHT = 64; // CSS px
const TEXT_HEIGHT = 58; // legend and buttons
const LARGEST_VIEW = 320; // CSS px of height by itself; the node can be drawn larger
const SMALLEST_VIEW = 160;
const AROUND_FACE = 0.3; // of the face's side, shown around the hole in the close-up
const SQUARE_SIDE = 256; // px at which the face's square is worked on
const TINT = [255, 96, 64];
const TINT_STRENGTH = 0.55;

export class BlendPreview {
  /** onHeight(): the height the panel needs has changed. feather(): {value 0..1, linked}: mask_smooth now. */
  constructor({ feather, onHeight }) {
    this.feather = feather;
    this.onHeight = onHeight;
    this.closeUp = true;
    this.asMask = false;
    this.canvas = element("canvas", "", { role: "img" });
    this.stage = element("div", "ls-stage ls-blend-stage", {}, this.canvas);
    this.inner = element("span");
    this.outer = element("span");
    this.amount = element("span", "ls-amount", { role: "status" });
    this.viewButton = this.choice(() => (this.closeUp = !this.closeUp));
    this.maskButton = this.choice(() => (this.asMask = !this.asMask));
    const legend = element(
      "div",
      "ls-values",
      {},
      element("span", "ls-value ls-inner", {}, element("i"), this.inner),
      element("span", "ls-value ls-outer", {}, element("i"), this.outer),
    );
    const bar = element("div", "ls-controls", {}, this.amount, this.viewButton, this.maskButton);
    this.content = element("div", "ls-content", {}, this.stage, bar, legend);
    this.message = element("div", "ls-empty", { role: "status" }, text("emptyBlend"));
    this.element = element("div", "latentsync ls-blend", {}, this.message, this.content);
    this.content.hidden = true;
    new ResizeObserver(() => this.refresh()).observe(this.stage);
    this.stopWatching = onThemeChange(() => this.refresh());
  }

  choice(change) {
    const button = element("button", "ls-button ls-choice", { type: "button" });
    button.addEventListener("click", () => {
      change();
      this.refresh();
    });
    return button;
  }

  /** Of several runs of the node, as a list of videos makes them, the first: they have one mask_smooth. */
  showAll(payloads) {
    return this.show(payloads[0]);
  }

  /** The payload of one run, as contained in the node's ui output. */
  async show(payload) {
    this.payload = payload;
    let pictures;
    try {
      pictures = await Promise.all([loadImage(payload.frame), loadImage(payload.hole)]);
    } catch (error) {
      if (this.payload === payload) this.say(text("pictureMissing", { name: error.message }));
      return;
    }
    if (this.payload !== payload) return; // another run has come meanwhile
    [this.frame] = pictures;
    this.measure(pictures[1], payload);
    this.message.hidden = true;
    this.content.hidden = false;
    this.onHeight();
    this.refresh();
  }

  say(sentence) {
    this.content.hidden = true;
    this.message.hidden = false;
    this.message.textContent = sentence;
    this.onHeight();
  }

  /**
   * Distances to the edge, once a run; the feather is made of them at every change of mask_smooth. As in the library
   * that happens in the face's square, which a frame shows turned and stretched; without its corners, in the picture.
   */
  measure(hole, { size, side, square }) {
    [this.width, this.height] = size ?? [this.frame.naturalWidth, this.frame.naturalHeight];
    this.bordered = Boolean(square);
    this.side = square ? SQUARE_SIDE : side;
    this.columns = square ? SQUARE_SIDE : this.width;
    this.rows = square ? SQUARE_SIDE : this.height;
    this.toPicture = square ? squareToPicture(square) : new DOMMatrix();
    const { canvas, context } = sheet(this.columns, this.rows);
    context.setTransform(this.toPicture.inverse());
    context.drawImage(hole, 0, 0, this.width, this.height);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const inside = Uint8Array.from({ length: this.columns * this.rows }, (_, i) => (pixels[4 * i] < 128 ? 0 : 1));
    this.distance = signedDistance(inside, this.columns, this.rows);
    this.face = this.surroundings(inside, square ? Math.hypot(square[1][0] - square[0][0], square[1][1] - square[0][1]) : side);
  }

  /** The close-up: the hole's place in the picture and something around it; null without a hole. */
  surroundings(inside, side) {
    const box = { left: this.width, top: this.height, right: 0, bottom: 0 };
    for (let i = 0; i < inside.length; i++) {
      if (!inside[i]) continue;
      const { x, y } = this.toPicture.transformPoint({ x: (i % this.columns) + 0.5, y: Math.floor(i / this.columns) + 0.5 });
      box.left = Math.min(box.left, x);
      box.top = Math.min(box.top, y);
      box.right = Math.max(box.right, x);
      box.bottom = Math.max(box.bottom, y);
    }
    if (box.right < box.left) return null;
    const around = AROUND_FACE * side;
    return {
      left: Math.max(0, box.left - around),
      top: Math.max(0, box.top - around),
      right: Math.min(this.width, box.right + around),
      bottom: Math.min(this.height, box.bottom + around),
    };
  }

  /** The part of the picture that is shown, px of the picture. */
  get view() {
    if (this.closeUp && this.face) return this.face;
    return { left: 0, top: 0, right: this.width, bottom: this.height };
  }

  get minHeight() {
    return this.content.hidden ? EMPTY_HEIGHT : SMALLEST_VIEW + TEXT_HEIGHT;
  }

  fullHeight(width) {
    if (this.content.hidden) return this.minHeight;
    const { left, top, right, bottom } = this.view;
    const fitting = (width * (bottom - top)) / Math.max(1, right - left);
    return TEXT_HEIGHT + Math.min(LARGEST_VIEW, Math.max(SMALLEST_VIEW, fitting));
  }

  refresh() {
    const available = [this.stage.clientWidth, this.stage.clientHeight];
    if (this.content.hidden || !available[0] || !available[1]) return;
    const { value, linked } = this.feather();
    const straight = ramp(this.distance, this.columns, this.rows, {
      feather: value,
      side: this.side,
      bordered: this.bordered,
    });
    this.weights = alpha(straight);
    this.draw(straight, available);
    const percent = Number((value * FEATHER_WIDTH * 100).toFixed(1));
    this.amount.textContent = value > 0 ? text("feather", { percent }) : text("hard");
    this.amount.title = linked ? text("linked") : "";
    this.inner.textContent = text("innerEdge");
    this.outer.textContent = text("outerEdge");
    this.viewButton.textContent = text(this.closeUp ? "whole" : "closeUp");
    this.maskButton.textContent = text(this.asMask ? "tint" : "mask");
    this.canvas.setAttribute("aria-label", `${text("blend")}: ${this.amount.textContent}`);
  }

  draw(straight, [width, height]) {
    const { left, top, right, bottom } = this.view;
    const fit = Math.min(width / (right - left), height / (bottom - top));
    const scale = Math.max(2, window.devicePixelRatio); // sharp also where the graph is zoomed in
    const { canvas } = this;
    this.stage.style.setProperty("--ls-shape", (right - left) / (bottom - top));
    canvas.style.width = `${(right - left) * fit}px`;
    canvas.style.height = `${(bottom - top) * fit}px`;
    canvas.width = (right - left) * fit * scale;
    canvas.height = (bottom - top) * fit * scale;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    const toCanvas = new DOMMatrix().scale(fit * scale).translate(-left, -top);
    context.setTransform(toCanvas);
    if (this.asMask) context.fillRect(0, 0, this.width, this.height);
    else context.drawImage(this.frame, 0, 0, this.width, this.height);
    context.setTransform(toCanvas.multiply(this.toPicture));
    context.drawImage(this.layer(), 0, 0);
    const palette = colours(this.element);
    for (const [level, colour] of [
      [0, palette.source],
      [1, palette.result],
    ])
      this.line(context, contour(straight, this.columns, this.rows, level), toCanvas.multiply(this.toPicture), colour, scale);
  }

  /** The weights as a picture: a tint over the frame, or the mask itself. */
  layer() {
    const { canvas, context } = sheet(this.columns, this.rows);
    const image = context.createImageData(this.columns, this.rows);
    for (let i = 0; i < this.weights.length; i++) {
      const weight = this.weights[i];
      const grey = 255 * weight;
      image.data.set(this.asMask ? [grey, grey, grey, 255] : [...TINT, 255 * TINT_STRENGTH * weight], 4 * i);
    }
    context.putImageData(image, 0, 0);
    return canvas;
  }

  /** Lines of a contour with a dark rim, as wide wherever the picture is stretched. */
  line(context, points, matrix, colour, scale) {
    const path = new Path2D();
    for (let i = 0; i < points.length; i += 4) {
      path.moveTo(points[i] + 0.5, points[i + 1] + 0.5); // a field's values are at the middle of its pixels
      path.lineTo(points[i + 2] + 0.5, points[i + 3] + 0.5);
    }
    const outline = new Path2D();
    outline.addPath(path, matrix);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.lineCap = "round";
    for (const [style, width] of [
      ["rgba(0, 0, 0, 0.55)", 3],
      [colour, 1.5],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = width * scale;
      context.stroke(outline);
    }
  }

  hide() {}

  destroy() {
    this.stopWatching();
  }
}

/** From px of the face's square to px of the picture. Corners: outer ones, from the top left clockwise. */
function squareToPicture([[x0, y0], [x1, y1], , [x3, y3]]) {
  const [a, b, c, d] = [x1 - x0, y1 - y0, x3 - x0, y3 - y0].map((span) => span / SQUARE_SIDE);
  return new DOMMatrix([a, b, c, d, x0, y0]);
}

function sheet(width, height) {
  const canvas = element("canvas", "", { width, height });
  return { canvas, context: canvas.getContext("2d", { willReadFrequently: true }) };
}
