// A lip-sync report as the nodes send it (LipSyncReport.to_json), with the questions the widgets ask of it.

const LEAST_SCALE = 0.08; // eye distances: closed mouths should look closed, whatever their noise

export class Report {
  constructor(payload) {
    const frames = payload.frames ?? {};
    this.fps = payload.fps > 0 ? payload.fps : 25;
    this.times = frames.time ?? []; // s, ascending
    this.detected = frames.detected ?? []; // 0 or 1
    this.confidence = frames.confidence ?? []; // 0..1
    this.sourceOpening = frames.source_opening ?? []; // mouth opening in eye distances, null where not measured
    this.opening = frames.opening ?? [];
    this.faded = frames.faded ?? []; // 0 generated .. 1 the source's pixels
    this.peaks = payload.waveform?.peaks ?? []; // 0..1
    this.peakRate = payload.waveform?.rate ?? 50; // peaks a second
    this.warnings = payload.warnings ?? [];
    this.seconds = payload.seconds ?? null; // how long the run took
    const last = this.times.length ? this.times[this.times.length - 1] + 1 / this.fps : 0;
    this.duration = Math.max(last, payload.duration ?? 0) || 1;
    this.maxOpening = largest([...this.sourceOpening, ...this.opening], LEAST_SCALE);
    this.loudest = largest(this.peaks, 0);
  }

  get numFrames() {
    return this.times.length;
  }

  get numFaces() {
    return this.detected.reduce((sum, found) => sum + (found ? 1 : 0), 0);
  }

  get hasResultCurve() {
    return this.opening.some((value) => value != null);
  }

  /** Index of the frame on screen at a time, -1 where there are none. */
  frameAt(time) {
    let low = 0;
    let high = this.times.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.times[middle] <= time + 1e-6) low = middle;
      else high = middle - 1;
    }
    return high < 0 ? -1 : low;
  }

  endOf(index) {
    return index + 1 < this.times.length ? this.times[index + 1] : Math.max(this.duration, this.times[index]);
  }

  /** A time well inside a frame: seeking to its very beginning may show the one before. */
  middleOf(index) {
    return (this.times[index] + Math.min(this.endOf(index), this.times[index] + 1 / this.fps)) / 2;
  }

  /** "found", "faded" or "missing". */
  stateOf(index) {
    const faded = this.faded[index] ?? 0;
    if (!this.detected[index]) return faded >= 1 ? "faded" : "missing"; // faces after the speech are not looked for
    return faded > 0 ? "faded" : "found";
  }

  /** Stretches of one state: [{state, from, to}], from and to frame indices, both inclusive. */
  stretches() {
    const list = [];
    for (let i = 0; i < this.numFrames; i++) {
      const state = this.stateOf(i);
      const previous = list[list.length - 1];
      if (previous?.state === state) previous.to = i;
      else list.push({ state, from: i, to: i });
    }
    return list;
  }

  /** The longest time without a face: {from, to} in s, or null. */
  longestGap() {
    let longest = null;
    for (const { state, from, to } of this.stretches()) {
      const gap = { from: this.times[from], to: this.endOf(to) };
      if (state === "missing" && (!longest || gap.to - gap.from > longest.to - longest.from)) longest = gap;
    }
    return longest;
  }
}

/** 83.247 -> "1:23.25" */
export function clockText(time) {
  const hundredths = Math.round(Math.max(0, time) * 100);
  const minutes = Math.floor(hundredths / 6000);
  return `${minutes}:${((hundredths % 6000) / 100).toFixed(2).padStart(5, "0")}`;
}

/** Without spreading into arguments: a long clip has more values than a call may take. */
function largest(values, least) {
  return values.reduce((most, value) => Math.max(most, value ?? 0), least);
}
