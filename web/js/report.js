// A lip-sync report as the nodes send it (LipSyncReport.to_json, version 2), with what the widgets ask of it.

const LEAST_SCALE = 0.08; // eye distances: closed mouths should look closed, whatever their noise

/** One of the faces that speak: columns with a value a frame. */
class SpeakingFace {
  constructor({ index = 0, choice = "", frames = {} }) {
    this.index = index; // its number in the clip
    this.choice = choice; // how it was asked for
    this.times = frames.time ?? []; // s, ascending; the same for all faces
    this.detected = frames.detected ?? []; // 0 or 1
    this.confidence = frames.confidence ?? []; // 0..1
    this.sourceOpening = frames.source_opening ?? []; // mouth opening in eye distances, null where not measured
    this.opening = frames.opening ?? [];
    this.faded = frames.faded ?? []; // 0 generated .. 1 the source's pixels
    this.yaw = frames.yaw ?? []; // degrees, null where unknown
    this.voice = frames.voice ?? []; // 0..1, 1 where its speech is heard
    this.restored = frames.restored ?? []; // 0 or 1
    this.maxOpening = largest([...this.sourceOpening, ...this.opening], LEAST_SCALE);
  }

  get hasResultCurve() {
    return this.opening.some((value) => value != null);
  }

  /** "found": something generated is seen; "faded": the source is shown as it was; "missing". */
  stateOf(frame) {
    const untouched = (this.faded[frame] ?? 0) >= 1;
    if (!this.detected[frame]) return untouched ? "faded" : "missing"; // faces after the speech are not looked for
    return untouched ? "faded" : "found";
  }

  /** Runs of frames for which `key(frame)` is the same: [{state, from, to}], frame indices, both inclusive. */
  stretches(key = (frame) => this.stateOf(frame)) {
    const list = [];
    for (let i = 0; i < this.times.length; i++) {
      const state = key(i);
      const previous = list[list.length - 1];
      if (previous?.state === state) previous.to = i;
      else list.push({ state, from: i, to: i });
    }
    return list;
  }
}

const TOLD = 0.5; // confidence of an offset from which on a person is told, as in the report's text

export class Report {
  constructor(payload) {
    this.faces = (payload.faces ?? []).map((face) => new SpeakingFace(face));
    if (!this.faces.length) this.faces = [new SpeakingFace({})];
    this.face = this.faces[0]; // the one whose curves are shown
    this.times = this.face.times;
    this.fps = payload.fps > 0 ? payload.fps : 25;
    this.peaks = payload.waveform?.peaks ?? []; // 0..1
    this.peakRate = payload.waveform?.rate ?? 50; // peaks a second
    this.warnings = payload.warnings ?? [];
    this.seconds = payload.seconds ?? null; // how long the run took
    this.offset = payload.offset?.confidence >= TOLD ? payload.offset : null; // {ms, confidence}: lips after the speech
    this.details = detailsOf(payload);
    const last = this.times.length ? this.times[this.times.length - 1] + 1 / this.fps : 0;
    this.duration = Math.max(last, payload.duration ?? 0) || 1;
    this.loudest = largest(this.peaks, 0);
  }

  get numFrames() {
    return this.times.length;
  }

  /** Frames in which a generated face is seen. */
  get numFaces() {
    return this.times.filter((_, frame) => this.faces.some((face) => face.stateOf(frame) === "found")).length;
  }

  /** Frames in which a face was restored. */
  get numRestored() {
    return this.times.filter((_, frame) => this.faces.some((face) => face.restored[frame])).length;
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

  /** The longest time without the face whose curves are shown: {from, to} in s, or null. */
  longestGap() {
    let longest = null;
    for (const { state, from, to } of this.face.stretches()) {
      const gap = { from: this.times[from], to: this.endOf(to) };
      if (state === "missing" && (!longest || gap.to - gap.from > longest.to - longest.from)) longest = gap;
    }
    return longest;
  }
}

/** Lines about what the result was made with; names are those of the JSON. */
function detailsOf({ model, restorer, device, dtype, stages, versions, settings }) {
  const files = Object.entries(model?.files ?? {}).map(([name, hash]) => `${name} ${hash.slice(0, 12)}`);
  return [
    model && [`model ${model.name}`, `${model.resolution} px`, ...files, device, dtype],
    restorer && [`restorer ${restorer.name}`, restorer.sha256?.slice(0, 12)],
    stages && Object.entries(stages).map(([name, seconds]) => `${name} ${seconds.toFixed(1)} s`),
    settings && Object.entries(settings).map(([name, value]) => `${name} ${value}`),
    versions && Object.entries(versions).map(([name, version]) => `${name} ${version}`),
  ]
    .filter(Boolean)
    .map((parts) => parts.filter(Boolean).join(" · "));
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
