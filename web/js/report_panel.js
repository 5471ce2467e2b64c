// What LatentSyncLipSync and LatentSyncReport show: the compare player, the timeline below it, values and a summary.

import { ComparePlayer, CONTROLS_HEIGHT, STAGE_MIN_HEIGHT } from "./compare_player.js";
import { element } from "./elements.js";
import { Report, clockText } from "./report.js";
import { text } from "./texts.js";
import { onThemeChange } from "./theme.js";
import { Timeline } from "./timeline.js";

const EMPTY_HEIGHT = 64; // CSS px
const GAPS = 24; // between the parts
const TALLEST_STAGE = 420; // an upright video gets no taller by itself; the node can be drawn larger

export class ReportPanel {
  /** onHeight(): the height the panel needs has changed. */
  constructor({ emptyText, onHeight }) {
    this.onHeight = onHeight;
    this.player = new ComparePlayer({ onTime: (time) => this.setTime(time), onShape: (ratio) => this.setShape(ratio) });
    this.timeline = new Timeline({
      onSeek: (time) => {
        this.player.pause();
        this.player.seek(time);
      },
      onHover: (frame) => this.tell(frame),
      onFace: (face) => this.showFace(face),
    });
    this.values = element("div", "ls-values");
    this.summary = element("div", "ls-summary");
    this.warnings = element("ul", "ls-warnings");
    this.details = element("details", "ls-details", {}, element("summary", "", {}, text("details")), element("div"));
    this.chosen = element("span");
    this.chooser = element("div", "ls-chooser", {}, this.arrow("‹", "previous", -1), this.chosen, this.arrow("›", "next", 1));
    this.chooser.hidden = true;
    const parts = [this.values, this.summary, this.warnings, this.details];
    this.content = element("div", "ls-content", {}, this.chooser, this.player.element, this.timeline.element, ...parts);
    this.empty = element("div", "ls-empty", {}, text(emptyText));
    this.element = element("div", "latentsync ls-report", {}, this.empty, this.content);
    this.content.hidden = true;
    this.element.addEventListener("keydown", (event) => this.press(event));
    this.textHeight = 40; // until it is laid out
    this.texts = [this.chooser, ...parts, this.player.note];
    const measure = new ResizeObserver(() => this.measureTexts());
    for (const part of this.texts) measure.observe(part);
    this.stopWatching = onThemeChange(() => this.timeline.refresh());
  }

  /** The payloads of all runs of the node, as contained in its ui output: the first is shown, arrows lead to the others. */
  showAll(payloads) {
    this.payloads = payloads;
    this.choose(0);
  }

  choose(index) {
    const count = this.payloads.length;
    this.index = (index + count) % count;
    this.chooser.hidden = count < 2;
    this.chosen.textContent = text("resultOf", { number: this.index + 1, count });
    this.show(this.payloads[this.index]);
  }

  arrow(sign, label, step) {
    const button = element("button", "ls-button ls-choice", { type: "button", title: text(label), "aria-label": text(label) }, sign);
    button.addEventListener("click", () => this.choose(this.index + step));
    return button;
  }

  /** The payload of one run. */
  show(payload) {
    this.report = new Report(payload);
    this.empty.hidden = true;
    this.content.hidden = false;
    this.player.element.hidden = !payload.video;
    this.player.pause();
    if (payload.video)
      this.player.show({
        video: payload.video,
        source: payload.source,
        fps: this.report.fps,
        sourceStart: payload.source_start ?? 0,
        length: payload.length,
        pace: payload.pace,
      });
    this.timeline.show(this.report);
    this.summary.textContent = this.summaryText();
    this.details.hidden = !this.report.details.length;
    this.details.lastChild.replaceChildren(...this.report.details.map((line) => element("div", "", {}, line)));
    this.warnings.replaceChildren(...this.report.warnings.map((warning) => element("li", "", {}, warning)));
    this.tell(-1);
    this.onHeight();
  }

  /** Smallest height that shows everything, CSS px. */
  get minHeight() {
    if (this.content.hidden) return EMPTY_HEIGHT;
    return this.restHeight + (this.player.element.hidden ? 0 : STAGE_MIN_HEIGHT);
  }

  /** All but the picture. */
  get restHeight() {
    return (this.player.element.hidden ? 0 : CONTROLS_HEIGHT) + this.timeline.height + this.textHeight + GAPS;
  }

  /** Height at which the picture fills a panel of this width, CSS px. */
  fullHeight(width) {
    if (this.content.hidden || this.player.element.hidden || !this.ratio) return this.minHeight;
    return this.restHeight + Math.min(TALLEST_STAGE, Math.max(STAGE_MIN_HEIGHT, width / this.ratio));
  }

  measureTexts() {
    const height = this.texts.reduce((sum, part) => sum + part.offsetHeight, 0);
    if (!height || height === this.textHeight) return;
    this.textHeight = height;
    this.onHeight();
  }

  setShape(ratio) {
    this.ratio = ratio;
    this.onHeight();
  }

  setTime(time) {
    if (time !== this.timeline.time) this.timeline.hover = null; // what is on screen is of more interest now
    this.timeline.setTime(time);
    this.tell(-1);
  }

  /** Curves and values of another face. */
  showFace(face) {
    this.report.face = face;
    this.timeline.refresh();
    this.summary.textContent = this.summaryText();
    this.tell(-1);
  }

  /** Values of a frame, -1 for the one on screen. */
  tell(hovered) {
    if (!this.report) return;
    const frame = hovered >= 0 ? hovered : this.report.frameAt(this.timeline.time);
    if (frame < 0) return this.values.replaceChildren();
    const { face } = this.report;
    const several = this.report.faces.length > 1;
    this.values.replaceChildren(
      element("span", "ls-when", {}, text("frame", { frame }) + (several ? ` · ${text("number", { number: face.index })}` : "")),
      value("source", text("source"), opening(face.sourceOpening[frame])),
      value("result", text("result"), face.hasResultCurve ? opening(face.opening[frame]) : text("notMeasured")),
      value(face.stateOf(frame), "", this.stateText(frame)),
    );
  }

  /** "face 92 %, faded 50 %, turned 12°, restored, pause" */
  stateText(frame) {
    const { face } = this.report;
    const state = face.stateOf(frame);
    const faded = face.faded[frame] ?? 0;
    const yaw = face.yaw[frame];
    return [
      text(state, { percent: percent(face.confidence[frame]) }),
      faded > 0 && faded < 1 && text("fading", { percent: percent(faded) }),
      yaw != null && text("turned", { degrees: Math.round(yaw) }),
      face.restored[frame] && text("restored"),
      face.voice[frame] < 0.5 && text("silent"),
    ]
      .filter(Boolean)
      .join(", ");
  }

  summaryText() {
    const { report } = this;
    const gap = report.longestGap();
    return [
      text("summary", { faces: report.numFaces, frames: report.numFrames }),
      report.numRestored && text("restoredFrames", { frames: report.numRestored }),
      gap && text("gap", { from: clockText(gap.from), to: clockText(gap.to) }),
      `${Number(report.fps.toFixed(3))} fps`,
      clockText(report.duration),
      report.offset && text(report.offset.ms < 0 ? "early" : "late", { ms: Math.abs(Math.round(report.offset.ms)) }),
      report.seconds && text("took", { seconds: report.seconds.toFixed(1) }),
    ]
      .filter(Boolean)
      .join(" · ");
  }

  press(event) {
    if (!this.report || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === " " && event.target.tagName === "BUTTON") return event.stopPropagation();
    const { player, report } = this;
    const second = event.shiftKey ? report.fps : 1;
    const actions = {
      " ": () => player.toggle(),
      ArrowLeft: () => player.step(-Math.round(second)),
      ArrowRight: () => player.step(Math.round(second)),
      Home: () => player.seek(0),
      End: () => player.seek(report.duration),
      m: () => player.setMuted(!player.result.muted),
      f: () => player.enlarge(),
    };
    const action = player.element.hidden ? null : actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault(); // nor may the graph take it: the space key pans it, arrows move nodes
    event.stopPropagation();
    action();
  }

  /** Out of sight: no sound from nowhere. */
  hide() {
    this.player.pause();
  }

  destroy() {
    this.stopWatching();
    this.player.destroy();
  }
}

function value(kind, name, words) {
  return element("span", `ls-value ls-${kind}`, {}, element("i"), name && `${name} `, element("b", "", {}, words));
}

function percent(share) {
  return share == null ? "" : `${Math.round(share * 100)} %`;
}

function opening(measured) {
  return measured == null ? "–" : measured.toFixed(2);
}
