// The timeline of a report: sound and voice, mouth opening of source and result, and what became of each face.

import { dragHere, element, fractionAcross } from "./elements.js";
import { clockText } from "./report.js";
import { text } from "./texts.js";
import { colours } from "./theme.js";

const RULER = { top: 0, height: 16 };
const SOUND = { top: 18, height: 34 };
const MOUTH = { top: 56, height: 60 };
const VOICE = { top: 53, height: 2.5 };
const FACES = { top: 122, height: 12, step: 15 }; // of the first face's bar; others stand below it
const MOST_BARS = 4;
const TICK_SPACING = 64; // CSS px at least between two times of the ruler
const TICKS = [0.04, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600]; // s
const SHORTEST_VIEW = 12; // frames
const FONT = "10px Inter, system-ui, sans-serif";

export class Timeline {
  /**
   * onSeek(time): the user asked for this moment, s. onHover(frame index or -1): what the pointer is on.
   * onFace(face of the report): the user asked for this one's curves.
   */
  constructor({ onSeek, onHover, onFace }) {
    this.onSeek = onSeek;
    this.onHover = onHover;
    this.onFace = onFace;
    this.report = null;
    this.time = 0; // s
    this.hover = null; // s
    this.from = 0; // s, the part shown
    this.to = 1;
    this.base = element("canvas"); // the report: drawn when it, the part shown, the size or the theme changes
    this.marks = element("canvas"); // playhead and pointer: drawn often
    this.element = element("div", "ls-timeline", { tabindex: 0, role: "slider", "aria-valuemin": 0 }, this.base, this.marks);
    this.element.style.height = `${this.height}px`;
    this.listen();
    new ResizeObserver(() => this.refresh()).observe(this.element);
  }

  /** Faces that have a bar. */
  get bars() {
    return this.report?.faces.slice(0, MOST_BARS) ?? [];
  }

  /** CSS px */
  get height() {
    return FACES.top + Math.max(1, this.bars.length) * FACES.step - 1;
  }

  show(report) {
    this.report = report;
    this.element.style.height = `${this.height}px`;
    this.from = 0;
    this.to = report.duration;
    this.element.title = text("timeline");
    this.element.setAttribute("aria-label", text("timeline"));
    this.element.setAttribute("aria-valuemax", report.duration.toFixed(2));
    this.refresh();
    this.setTime(0);
  }

  /** Move the playhead; the part shown follows it. */
  setTime(time) {
    if (!this.report) return;
    this.time = Math.min(Math.max(0, time), this.report.duration);
    const span = this.to - this.from;
    if (this.time < this.from || this.time > this.to) this.view(this.time - span * 0.1, span);
    this.element.setAttribute("aria-valuenow", this.time.toFixed(2));
    const frame = this.report.frameAt(this.time);
    this.element.setAttribute("aria-valuetext", `${clockText(this.time)}, ${text("frame", { frame })}`);
    this.drawMarks();
  }

  refresh() {
    this.colours = colours(this.element);
    this.drawBase();
    this.drawMarks();
  }

  // ---- what the user does

  listen() {
    this.element.addEventListener("pointerdown", (event) => {
      const face = event.button === 0 && this.faceAt(event);
      if (face && face !== this.report.face) this.onFace(face);
    });
    dragHere(this.element, (event) => {
      this.hover = this.timeAcross(event);
      this.seekTo(this.hover);
    });
    this.element.addEventListener("pointermove", (event) => this.point(this.timeAcross(event)));
    this.element.addEventListener("pointerleave", () => this.point(null));
    this.element.addEventListener("dblclick", () => this.view(0, this.report?.duration ?? 1));
    this.element.addEventListener(
      "wheel",
      (event) => {
        if (!event.shiftKey || !this.report) return; // without Shift the wheel zooms the graph, as everywhere else
        event.preventDefault();
        event.stopPropagation();
        this.zoom((event.deltaY || event.deltaX) < 0 ? 0.8 : 1.25, this.timeAcross(event));
      },
      { passive: false },
    );
    this.element.addEventListener("keydown", (event) => {
      if (!this.report || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "+" || event.key === "=") this.zoom(0.7, this.time);
      else if (event.key === "-") this.zoom(1 / 0.7, this.time);
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  point(time) {
    this.hover = this.report ? time : null;
    this.onHover(this.hover == null ? -1 : this.report.frameAt(this.hover));
    this.drawMarks();
  }

  seekTo(time) {
    if (!this.report) return;
    const frame = this.report.frameAt(time);
    this.onSeek(frame < 0 ? time : this.report.middleOf(frame));
  }

  zoom(factor, around) {
    const shortest = Math.min(this.report.duration, SHORTEST_VIEW / this.report.fps);
    const span = Math.min(this.report.duration, Math.max(shortest, (this.to - this.from) * factor));
    this.view(around - ((around - this.from) / (this.to - this.from)) * span, span);
  }

  view(from, span) {
    this.from = Math.max(0, Math.min(from, (this.report?.duration ?? span) - span));
    this.to = this.from + span;
    this.refresh();
  }

  /** The face whose bar is there, null elsewhere. */
  faceAt(event) {
    const box = this.element.getBoundingClientRect();
    const y = ((event.clientY - box.top) / Math.max(1, box.height)) * this.height;
    return this.bars[Math.floor((y - FACES.top) / FACES.step)] ?? null;
  }

  timeAcross(event) {
    return this.from + fractionAcross(this.element, event) * (this.to - this.from);
  }

  // ---- drawing

  /** Context of a cleared canvas in CSS px; null while it has no size. */
  context(canvas) {
    const width = this.element.clientWidth;
    if (!width || !this.report) return null;
    const scale = Math.max(2, window.devicePixelRatio); // sharp also where the graph is zoomed in
    const size = [Math.round(width * scale), Math.round(this.height * scale)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, this.height);
    context.font = FONT;
    context.textBaseline = "middle";
    this.width = width;
    return context;
  }

  x(time) {
    return ((time - this.from) / (this.to - this.from)) * this.width;
  }

  drawBase() {
    const context = this.context(this.base);
    if (!context) return;
    this.drawRuler(context);
    this.drawGaps(context);
    this.drawSound(context);
    this.drawVoice(context);
    this.drawMouth(context);
    this.drawFaces(context);
    if (!this.report.numFrames) this.label(context, text("noFrames"), 6, MOUTH.top + MOUTH.height / 2);
  }

  drawRuler(context) {
    const { line, dim } = this.colours;
    const step = TICKS.find((tick) => (tick / (this.to - this.from)) * this.width >= TICK_SPACING) ?? TICKS[TICKS.length - 1];
    context.lineWidth = 1;
    for (let n = Math.ceil(this.from / step); n * step <= this.to; n++) {
      const x = Math.round(this.x(n * step)) + 0.5;
      context.strokeStyle = line;
      context.beginPath();
      context.moveTo(x, RULER.top + 3);
      context.lineTo(x, this.height - 2);
      context.stroke();
      const label = step < 1 ? clockText(n * step).replace(/0$/, "") : clockText(n * step).slice(0, -3);
      if (x + 4 + context.measureText(label).width > this.width) continue;
      context.fillStyle = dim;
      context.fillText(label, x + 4, RULER.top + RULER.height / 2);
    }
  }

  /** Frames without a face tint the whole height, so that they are seen beside the curves too. */
  drawGaps(context) {
    for (const { state, left, width } of this.visibleStretches(this.report.face.stretches())) {
      if (state !== "missing") continue;
      context.fillStyle = this.colours.gap;
      context.fillRect(left, SOUND.top, width, FACES.top - SOUND.top);
    }
  }

  drawSound(context) {
    const { peaks, peakRate } = this.report;
    const middle = SOUND.top + SOUND.height / 2;
    const loudest = Math.max(0.01, this.report.loudest);
    context.fillStyle = this.colours.sound;
    for (let x = 0; x < this.width; x++) {
      const first = Math.floor((this.from + (x / this.width) * (this.to - this.from)) * peakRate);
      const last = Math.floor((this.from + ((x + 1) / this.width) * (this.to - this.from)) * peakRate);
      let peak = 0;
      for (let i = first; i <= Math.max(first, last - 1) && i < peaks.length; i++) peak = Math.max(peak, peaks[i]);
      const half = Math.max(0.5, ((peak / loudest) * SOUND.height) / 2);
      context.fillRect(x, middle - half, 1, 2 * half);
    }
    this.label(context, text("sound"), 4, SOUND.top + 6);
  }

  /** A line below the sound where the face's speech is heard; none in pauses. */
  drawVoice(context) {
    const { face } = this.report;
    if (!face.voice.length) return;
    context.fillStyle = this.colours.voice;
    for (const { state, left, width } of this.visibleStretches(face.stretches((frame) => face.voice[frame] >= 0.5)))
      if (state) context.fillRect(left, VOICE.top, width, VOICE.height);
  }

  drawMouth(context) {
    const { line, source, result } = this.colours;
    context.strokeStyle = line;
    context.beginPath();
    context.moveTo(0, MOUTH.top + MOUTH.height + 0.5);
    context.lineTo(this.width, MOUTH.top + MOUTH.height + 0.5);
    context.stroke();
    this.drawCurve(context, this.report.face.sourceOpening, source, 1.25);
    this.drawCurve(context, this.report.face.opening, result, 1.75);
    this.label(context, text("mouth"), 4, MOUTH.top + 6);
  }

  drawCurve(context, values, colour, lineWidth) {
    const { report } = this;
    const height = (value) => MOUTH.top + MOUTH.height - (value / report.face.maxOpening) * (MOUTH.height - 4);
    const first = Math.max(0, report.frameAt(this.from) - 1);
    const last = Math.min(values.length - 1, report.frameAt(this.to) + 1);
    context.strokeStyle = colour;
    context.lineWidth = lineWidth;
    context.lineJoin = "round";
    context.lineCap = "round";
    context.beginPath();
    let column = null; // frames that fall into one pixel become its lowest and highest value
    let broken = true;
    const flush = () => {
      if (!column) return;
      if (broken) context.moveTo(column.x, height(column.first));
      for (const value of [column.low, column.high, column.last]) context.lineTo(column.x, height(value));
      broken = false;
      column = null;
    };
    for (let i = first; i <= last; i++) {
      if (values[i] == null) {
        flush();
        broken = true;
        continue;
      }
      const x = this.x(report.middleOf(i));
      if (column && x - column.x >= 1) flush();
      column ??= { x, first: values[i], low: values[i], high: values[i] };
      column.low = Math.min(column.low, values[i]);
      column.high = Math.max(column.high, values[i]);
      column.last = values[i];
    }
    flush();
    context.stroke();
  }

  drawFaces(context) {
    const paints = { found: this.colours.found, faded: this.colours.faded, missing: this.hatch(context) };
    this.bars.forEach((face, row) => {
      const top = FACES.top + row * FACES.step;
      for (const { state, left, width } of this.visibleStretches(face.stretches())) {
        context.fillStyle = paints[state];
        context.fillRect(left, top, width, FACES.height);
      }
      const fading = face.stretches((frame) => (face.faded[frame] > 0 && face.faded[frame] < 1 ? face.faded[frame] : 0));
      context.fillStyle = paints.faded;
      for (const { state, left, width } of this.visibleStretches(fading))
        context.fillRect(left, top, width, FACES.height * state);
      if (this.bars.length < 2) return;
      this.label(context, String(face.index), 4, top + FACES.height / 2 + 0.5, this.colours.text);
      context.strokeStyle = this.colours.text;
      context.lineWidth = 1;
      if (face === this.report.face) context.strokeRect(0.5, top - 0.5, this.width - 1, FACES.height + 1);
    });
  }

  /** Missing faces are hatched: told from found ones without colours too. */
  hatch(context) {
    const tile = element("canvas", "", { width: 12, height: 12 });
    const pen = tile.getContext("2d");
    pen.strokeStyle = this.colours.missing;
    pen.lineWidth = 3.5;
    for (const shift of [-6, 0, 6]) {
      pen.moveTo(shift - 2, 14);
      pen.lineTo(shift + 14, -2);
    }
    pen.moveTo(10, 14);
    pen.lineTo(14, 10);
    pen.stroke();
    const pattern = context.createPattern(tile, "repeat");
    pattern.setTransform(new DOMMatrix([0.5, 0, 0, 0.5, 0, 0]));
    return pattern;
  }

  *visibleStretches(stretches) {
    for (const { state, from, to } of stretches) {
      const left = Math.max(0, this.x(this.report.times[from]));
      const right = Math.min(this.width, this.x(this.report.endOf(to)));
      if (right <= 0 || left >= this.width) continue;
      yield { state, left, width: Math.max(state === "missing" ? 2 : 0.5, right - left) };
    }
  }

  label(context, words, x, y, colour = this.colours.dim) {
    context.fillStyle = colour;
    context.lineWidth = 3;
    context.lineJoin = "round";
    context.strokeStyle = this.colours.surface;
    context.strokeText(words, x, y);
    context.fillText(words, x, y);
  }

  drawMarks() {
    const context = this.context(this.marks);
    if (!context) return;
    if (this.hover != null) this.drawMark(context, this.hover, this.colours.dim, [3, 3]);
    this.drawMark(context, this.time, this.colours.text, []);
  }

  drawMark(context, time, colour, dashes) {
    const x = Math.min(this.width - 0.75, Math.max(0.75, this.x(time)));
    context.strokeStyle = colour;
    context.lineWidth = 1.5;
    context.setLineDash(dashes);
    context.beginPath();
    context.moveTo(x, RULER.height);
    context.lineTo(x, this.height);
    context.stroke();
    context.setLineDash([]);
    const words = clockText(time);
    const width = context.measureText(words).width + 8;
    const left = Math.min(this.width - width, Math.max(0, x - width / 2));
    context.fillStyle = colour;
    context.beginPath();
    context.roundRect(left, 1, width, RULER.height - 2, 3);
    context.fill();
    context.fillStyle = this.colours.surface;
    context.fillText(words, left + 4, RULER.height / 2 + 0.5);
  }
}
