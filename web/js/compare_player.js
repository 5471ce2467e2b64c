// Source and result in one picture, divided by a line to drag. The sound is the result's, which also leads the time.

import { dragHere, element, fractionAcross, iconButton, setIcon } from "./elements.js";
import { fileUrl } from "./host.js";
import { clockText } from "./report.js";
import { text } from "./texts.js";

const CATCH_UP = 4; // change of the source's speed for each second it is off
export const STAGE_MIN_HEIGHT = 150; // CSS px
export const CONTROLS_HEIGHT = 28;
const DIVIDER_STEP = 0.02; // of the picture's width, a press of an arrow key
const FAR_BEHIND = 0.12; // s: the source jumps to the result instead of catching up

export class ComparePlayer {
  /** onTime(seconds): the picture changed. onShape(width / height): the video's shape is known. */
  constructor({ onTime, onShape }) {
    this.onTime = onTime;
    this.onShape = onShape;
    this.fps = 25;
    this.sourceStart = 0; // s of the source at the result's beginning
    this.length = "bounce";
    this.pace = 1;
    this.wanted = null; // s to seek to when the seek under way has ended
    this.build();
    this.listen();
  }

  build() {
    this.result = element("video", "ls-video", { playsinline: "", preload: "auto", loop: "" });
    this.source = element("video", "ls-video ls-source", { playsinline: "", preload: "auto" });
    this.source.muted = true;
    this.sourceTag = element("span", "ls-tag ls-tag-source");
    this.resultTag = element("span", "ls-tag ls-tag-result");
    this.divider = element("div", "ls-divider", { tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 100 });
    this.picture = element("div", "ls-picture", {}, this.result, this.source, this.sourceTag, this.resultTag, this.divider);
    this.stage = element("div", "ls-stage", {}, this.picture);
    this.playButton = iconButton("play", text("play"), () => this.toggle());
    this.soundButton = iconButton("sound", text("mute"), () => this.setMuted(!this.result.muted));
    this.largeButton = iconButton("enlarge", text("enlarge"), () => this.enlarge());
    this.clock = element("span", "ls-clock");
    this.note = element("div", "ls-note", { role: "status" });
    const controls = element("div", "ls-controls", {}, this.playButton, this.clock, this.soundButton, this.largeButton);
    this.element = element("div", "ls-player", { tabindex: -1, role: "group" }, this.stage, controls, this.note);
  }

  listen() {
    const { result, source } = this;
    dragHere(this.divider, (event) => this.divide(fractionAcross(this.picture, event)));
    this.divider.addEventListener("dblclick", () => this.divide(0.5));
    this.divider.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!steps) return;
      event.preventDefault();
      event.stopPropagation();
      this.divide(this.divided + steps * DIVIDER_STEP);
    });
    this.picture.addEventListener("click", (event) => event.target !== this.divider && this.toggle());
    result.addEventListener("loadedmetadata", () => {
      this.duration = result.duration;
      this.shape(result.videoWidth / result.videoHeight || 16 / 9);
      this.tell();
    });
    result.addEventListener("play", () => this.follow());
    result.addEventListener("pause", () => {
      source.pause();
      this.tell();
    });
    result.addEventListener("seeked", () => this.seekNext());
    result.addEventListener("error", () => this.fail("result"));
    source.addEventListener("error", () => this.fail("source"));
    source.addEventListener("loadedmetadata", () => this.alignSource());
    source.addEventListener("seeked", () => this.result.paused && this.alignSource());
  }

  /**
   * Files as the server names them; source may be null. sourceStart: s of the source where the result begins; length:
   * what follows on the source's end; pace: how many times faster the source runs in the result.
   */
  show({ video, source, fps = 25, sourceStart = 0, length = "bounce", pace = 1 }) {
    this.pause();
    this.files = { result: video, source };
    this.fps = fps;
    this.sourceStart = sourceStart;
    this.length = length;
    this.pace = pace;
    this.note.textContent = "";
    this.note.hidden = true;
    this.element.setAttribute("aria-label", text("player"));
    this.divider.setAttribute("aria-label", text("divider"));
    this.sourceTag.textContent = text("source");
    this.resultTag.textContent = text("result");
    this.stage.hidden = false;
    this.setCompared(Boolean(source));
    this.setMuted(this.result.muted);
    this.divide(0.5);
    this.result.src = fileUrl(video);
    if (source) this.source.src = fileUrl(source);
    else this.source.removeAttribute("src");
    this.tell();
  }

  setCompared(compared) {
    this.compared = compared;
    this.element.classList.toggle("ls-single", !compared);
  }

  fail(which) {
    const file = this.files?.[which];
    if (!file || !this[which].getAttribute("src")) return;
    this.note.hidden = false;
    this.note.textContent = text(`${which}Missing`, { name: file.filename });
    if (which === "source") this.setCompared(false);
    else this.stage.hidden = true;
    this.tell();
  }

  shape(ratio) {
    this.element.style.setProperty("--ls-shape", ratio);
    this.onShape(ratio);
  }

  divide(fraction) {
    this.divided = Math.min(1, Math.max(0, fraction));
    this.picture.style.setProperty("--ls-divided", `${this.divided * 100}%`);
    this.divider.setAttribute("aria-valuenow", String(Math.round(this.divided * 100)));
  }

  // ---- time

  get time() {
    return this.wanted ?? this.result.currentTime;
  }

  /** Time of the source that belongs to a time of the result, by the run's length mode. */
  sourceTime(time) {
    const length = this.source.duration;
    if (!(length > 0)) return { time: 0, backward: false };
    const last = length - 0.5 / this.fps;
    const at = this.sourceStart + time;
    if (this.length === "loop") return { time: Math.min(at % length, last), backward: false };
    if (this.length !== "bounce") return { time: Math.min(at * this.pace, last), backward: false };
    const turn = at % Math.max(2 * length - 2 / this.fps, 1 / this.fps); // the turning frames come once
    const backward = turn >= length;
    const place = backward ? 2 * length - 1 / this.fps - turn : turn;
    return { time: Math.min(place, last), backward };
  }

  /** Show the frame of a time; many calls while one is on its way end at the last. */
  seek(time) {
    if (this.stage.hidden) return this.onTime(time);
    this.wanted = Math.max(0, Math.min(time, this.duration ? this.duration - 0.5 / this.fps : time));
    if (!this.result.seeking) this.seekNext();
    this.tell();
  }

  seekNext() {
    if (this.wanted != null && Math.abs(this.wanted - this.result.currentTime) > 1e-3) {
      this.result.currentTime = this.wanted;
      return;
    }
    this.wanted = null;
    this.alignSource();
    this.tell();
  }

  /** Frames forward (or backward), from the middle of the present one. */
  step(frames) {
    this.pause();
    this.seek((Math.floor(this.time * this.fps + 1e-3) + frames + 0.5) / this.fps);
  }

  alignSource() {
    if (!this.compared || this.source.seeking || !this.source.duration) return;
    const { time } = this.sourceTime(this.time);
    if (Math.abs(this.source.currentTime - time) > 0.25 / this.fps) this.source.currentTime = time;
  }

  toggle() {
    if (this.result.paused) this.play();
    else this.pause();
  }

  play() {
    // refused only where the browser wants a click first or the file failed, and that has its own sentence
    this.result.play().catch(() => this.tell());
  }

  pause() {
    this.result.pause();
    this.source.pause();
  }

  /** While the result plays: keep the source beside it and tell the time, once a picture. */
  follow() {
    cancelAnimationFrame(this.following);
    const tick = () => {
      if (this.result.paused) return;
      this.keepUp();
      this.tell();
      this.following = requestAnimationFrame(tick);
    };
    tick();
  }

  keepUp() {
    const { source, result } = this;
    if (!this.compared || !source.duration) return;
    const { time, backward } = this.sourceTime(result.currentTime);
    const ahead = source.currentTime - time;
    if (backward) {
      source.pause(); // browsers cannot play backward: frame by frame
      if (!source.seeking && Math.abs(ahead) > 0.5 / this.fps) source.currentTime = time;
      return;
    }
    if (source.paused) source.play().catch(() => source.pause());
    if (source.seeking) return;
    if (Math.abs(ahead) > FAR_BEHIND) source.currentTime = time;
    const rate = Math.abs(ahead) < 0.25 / this.fps ? 1 : Math.min(1.5, Math.max(0.5, 1 - CATCH_UP * ahead));
    source.playbackRate = Math.min(8, Math.max(0.125, rate * this.pace)); // browsers refuse more
  }

  // ---- the rest of the controls

  setMuted(muted) {
    this.result.muted = muted;
    setIcon(this.soundButton, muted ? "silent" : "sound", text(muted ? "unmute" : "mute"));
  }

  enlarge() {
    const asked = document.fullscreenElement ? document.exitFullscreen() : this.element.requestFullscreen();
    asked.catch(() => {}); // a browser may forbid full screen; nothing else depends on it
  }

  tell() {
    const total = Number.isFinite(this.duration) ? clockText(this.duration) : "–:––";
    this.clock.textContent = `${clockText(this.time)} / ${total}`;
    const action = this.result.paused ? "play" : "pause";
    if (action !== this.shownAction) setIcon(this.playButton, action, text(action));
    this.shownAction = action;
    this.onTime(this.time);
  }

  destroy() {
    this.pause();
    for (const video of [this.result, this.source]) {
      video.removeAttribute("src");
      video.load();
    }
  }
}
