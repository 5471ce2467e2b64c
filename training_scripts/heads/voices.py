"""Voices that say when each phone begins and ends: synthesisers of Debian, and the neural voice hibari.

A voice that is not installed is passed over; `find_voices` says why. Nothing is fetched.
"""

import ctypes.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from latentsync.errors import LatentSyncError, OptionError

from .texts import sentence

SAMPLE_RATE = 16_000
FESTIVAL_VOICES = Path("/usr/share/festival/voices")
LIMIT = 300.0  # s that a synthesiser may take for a sentence: far more than it needs, however busy the machine
STRESS = ("ˈ", "ˌ")
PAUSE = 0.12  # s: a shorter one is none
HIBARI_LATE = 0.055  # s that its durations lag behind what is heard: by energy, and by the hiss of s and sh
HIBARI_DURATIONS = "/Clip_output_0"  # of its network: frames that each phone takes
QUIET = 0.02  # of the loudest 5 ms: what lies below is a stop's closure

# What a phone looks like. Rounded front vowels look like back ones. Two for one name: a diphthong, or two sounds.
Names = dict[str, str | tuple[str, ...]]
ARPA: Names = {
    **{name: name for name in ("aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "uh", "uw", "f", "th", "s", "sh")},
    **{"ax": "ah", "axr": "er", "ix": "ih", "ux": "uw", "ay": ("aa", "ih"), "aw": ("aa", "uh"), "oy": ("ao", "ih")},
    **{"ey": ("eh", "iy"), "ow": ("ao", "uh"), "p": "p", "b": "p", "m": "p", "em": "p", "v": "f", "dh": "th", "z": "s"},
    **{"zh": "sh", "ch": "sh", "jh": "sh", "t": "t", "d": "t", "n": "t", "l": "t", "dx": "t", "el": "t", "en": "t"},
    **{"k": "k", "g": "k", "ng": "k", "nx": "k", "hh": "k", "hv": "k", "h": "k", "r": "r", "w": "w", "y": "y"},
    **{"pau": "rest", "h#": "rest", "#": "rest", "ssil": "rest", "sil": "rest", "brth": "breath"},
}
PLAIN: Names = {  # what the other sets of festival share, without length and stress
    **{"a": "aa", "e": "eh", "i": "iy", "o": "ao", "u": "uw", "E": "eh", "O": "ao", "@": "ah", "ax": "ah", "&": "ae"},
    **{"p": "p", "b": "p", "m": "p", "f": "f", "v": "f", "nf": "f", "T": "th", "D": "th", "s": "s", "z": "s"},
    **{"ts": "s", "dz": "s", "S": "sh", "Z": "sh", "tS": "sh", "dZ": "sh", "sh": "sh", "zh": "sh", "t": "t", "d": "t"},
    **{"n": "t", "l": "t", "L": "y", "J": "y", "r": "r", "rr": "r", "k": "k", "g": "k", "h": "k", "x": "k", "N": "k"},
    **{"ng": "k", "j": "y", "w": "w", "pau": "rest", "#": "rest", "##": "rest", "_": "rest"},
}
CZECH: Names = PLAIN | {"c": "s", "ch": "k", "c~": "sh", "d~": "y", "t~": "y", "n~": "y", "n*": "k"}
CZECH |= {"dz~": "sh", "s~": "sh", "z~": "sh", "r~": "sh", "r~*": "sh"}
FINNISH: Names = PLAIN | {"y": "uw", "7": "er"}
RUSSIAN: Names = PLAIN | {"y": "ih", "yy": "ih", "ae": "ah", "ay": "ah", "ur": "uh", "c": "s", "ch": "sh", "sch": "sh"}
RUSSIAN |= {"aa": "aa", "ee": "eh", "ii": "iy", "oo": "ao", "uu": "uw"}
IPA: Names = {  # by the letter; hibari writes diphthongs as capitals
    **dict.fromkeys("ɑaɒ", "aa"),
    **dict.fromkeys("ʌəɐɘɤ", "ah"),
    **dict.fromkeys("ɔo", "ao"),
    **dict.fromkeys("ɛe", "eh"),
    **dict.fromkeys("ɜɚɝøœɵ", "er"),
    **dict.fromkeys("ɪᵻɨɯ", "ih"),
    **dict.fromkeys("uyʉ", "uw"),
    **dict.fromkeys("pbmɓ", "p"),
    **dict.fromkeys("fvʋɱ", "f"),
    **dict.fromkeys("θð", "th"),
    **dict.fromkeys("szʦʣ", "s"),
    **dict.fromkeys("ʃʒʧʤɕʑʂʐ", "sh"),
    **dict.fromkeys("tdnlɾTɫʈɖɳɭ", "t"),
    **dict.fromkeys("kɡgŋhxɣχʁħɦqcɟʔ", "k"),
    **dict.fromkeys("rɹɻʀ", "r"),
    **dict.fromkeys("jɲʎç", "y"),
    **{"æ": "ae", "i": "iy", "ʊ": "uh", "w": "w", "β": "w", "ɸ": "w"},
    **{
        "A": ("eh", "iy"),
        "I": ("aa", "ih"),
        "W": ("aa", "uh"),
        "Y": ("ao", "ih"),
        "O": ("ao", "uh"),
        "Q": ("ah", "uh"),
    },
}


class VoicesMissingError(LatentSyncError):
    """No voice is installed, or none of those that are asked for."""


@dataclass(frozen=True)
class Phone:
    """`start` and `end` in s, `viseme` of visemes.SHAPES, `name` as the voice writes it."""

    start: float
    end: float
    viseme: str
    name: str


@dataclass(frozen=True)
class Utterance:
    """(T,) float32 at 16 kHz, peak at most 1, and its phones in order, without gaps, from 0 on."""

    waveform: np.ndarray
    phones: tuple[Phone, ...]


@dataclass(frozen=True)
class Voice:
    """One voice of a synthesiser.

    engine    festival, flite, espeak or hibari; `speaker` is its own name for the voice
    language  of texts.SOUNDS
    names     phones as the voice writes them
    weight    how often it is heard beside the others
    held_out  never heard in training
    package   what brings it
    """

    engine: str
    speaker: str
    language: str
    names: Names
    weight: float
    package: str
    held_out: bool = False

    @property
    def name(self) -> str:
        return f"{self.engine}-{self.speaker}"

    def say(self, text: str, random: np.random.Generator) -> Utterance:
        """Say it at a speed and pitch of its own. Raises LatentSyncError where the synthesiser fails."""
        waveform, rate, named = _ENGINES[self.engine](self, text, random)
        size = (
            1.0 if self.engine in ("hibari", "espeak") else random.uniform(0.9, 1.12)
        )  # of the speaker: by resampling
        waveform = _resampled(waveform, rate, size)
        named = [(start * size, end * size, name) for start, end, name in named]
        phones = _looked_up(named, len(waveform) / SAMPLE_RATE, self.names)
        if not any(phone.viseme != "rest" for phone in phones):
            raise LatentSyncError(f"{self.name} says nothing to {text!r}")
        peak = float(np.abs(waveform).max())
        return Utterance((waveform / max(peak, 1e-6)).astype(np.float32), phones)


def _all_voices() -> Iterable[Voice]:
    yield Voice("hibari", "heart", "english", IPA, 5.0, "pip: hibari-tts onnx")
    yield Voice("hibari", "heart_gb", "english", IPA, 2.0, "pip: hibari-tts onnx")
    for speaker, weight in (("slt", 2.0), ("awb", 2.0), ("kal16", 0.5)):
        yield Voice("flite", speaker, "english", ARPA, weight, "apt: flite")
    yield Voice("flite", "rms", "english", ARPA, 2.0, "apt: flite", held_out=True)
    for speaker, package in (
        ("kal_diphone", "festvox-kallpc16k"),
        ("ked_diphone", "festvox-kdlpc16k"),
        ("cmu_us_slt_arctic_hts", "festvox-us-slt-hts"),
    ):
        yield Voice("festival", speaker, "english", ARPA, 0.8, f"apt: festival {package}")
    for speaker, language, names, package in (
        ("lp_diphone", "italian", PLAIN, "festvox-italp16k"),
        ("pc_diphone", "italian", PLAIN, "festvox-itapc16k"),
        ("suo_fi_lj_diphone", "finnish", FINNISH, "festvox-suopuhe-lj"),
        ("hy_fi_mv_diphone", "finnish", FINNISH, "festvox-suopuhe-mv"),
        ("czech_dita", "czech", CZECH, "festvox-czech-dita"),
        ("czech_krb", "czech", CZECH, "festvox-czech-krb"),
        ("czech_ph", "czech", CZECH, "festvox-czech-ph"),
        ("msu_ru_nsh_clunits", "russian", RUSSIAN, "festvox-ru"),
    ):
        yield Voice("festival", speaker, language, names, 0.6, f"apt: festival {package}")
    for speaker, language, names, package in (
        ("czech_machac", "czech", CZECH, "festvox-czech-machac"),
        ("upc_ca_ona_hts", "catalan", PLAIN, "festvox-ca-ona-hts"),
    ):
        yield Voice("festival", speaker, language, names, 1.0, f"apt: festival {package}", held_out=True)
    for speaker in ("en-us+f2", "en-gb-x-rp+m3", "de+f4", "fr+m1", "es+f3", "pl+m4", "sv+f5", "tr+m7"):
        language = "english" if speaker.startswith("en") else "plain"
        yield Voice("espeak", speaker, language, IPA, 0.25, "apt: espeak-ng")


VOICES = {voice.name: voice for voice in _all_voices()}


@lru_cache(maxsize=1)
def find_voices() -> tuple[tuple[Voice, ...], tuple[str, ...]]:
    """Those that are installed, and a line for each that is not."""
    found, missing = [], []
    for voice in VOICES.values():
        reason = _missing(voice)
        if reason is None:
            found.append(voice)
        else:
            missing.append(f"{voice.name} is left out: {reason} ({voice.package})")
    return tuple(found), tuple(missing)


def choose_voices(*, held_out: bool, only: Sequence[str] = ()) -> tuple[Voice, ...]:
    """The voices of a split that are installed; `only` these where any are named.

    Raises OptionError for an unknown name, VoicesMissingError where nothing is left.
    """
    for name in only:
        if name not in VOICES:
            raise OptionError(f"There is no voice {name!r}. There are: {', '.join(VOICES)}.")
    found, missing = find_voices()
    chosen = tuple(v for v in found if (v.name in only if only else v.held_out == held_out))
    if not chosen:
        raise VoicesMissingError(
            "None of the voices that are wanted is installed. " + "; ".join(missing) + ". On Debian and Ubuntu "
            "`apt-get install flite` brings four; training_scripts/README.md names the others."
        )
    return chosen


def utterance(voice: Voice, random: np.random.Generator) -> Utterance:
    """A sentence, a list or some syllables. Tries a few: synthesisers stumble over some."""
    for _ in range(4):
        try:
            return voice.say(sentence(voice.language, random), random)
        except LatentSyncError as error:
            reason = error
    raise LatentSyncError(f"{voice.name} failed at four sentences; the last one: {reason}")


def _missing(voice: Voice) -> str | None:
    """Why a voice cannot speak here; None if it can."""
    if voice.engine == "hibari":
        try:
            _hibari()
        except ImportError as error:
            return f"{error.name or error} is not installed"
        return None
    if voice.engine == "espeak":
        return None if ctypes.util.find_library("espeak-ng") else "libespeak-ng is not installed"
    if shutil.which(voice.engine) is None:
        return f"{voice.engine} is not installed"
    if voice.engine == "festival" and not any(FESTIVAL_VOICES.glob(f"*/{voice.speaker}")):
        return f"festival has no voice {voice.speaker}"
    return None


def _resampled(waveform: np.ndarray, rate: int, size: float) -> np.ndarray:
    """At 16 kHz, `size` times as long: a larger speaker is slower, and lower in pitch and formants."""
    up = 40
    down = max(1, round(up * rate / size / SAMPLE_RATE))
    exact = resample_poly(waveform, up, down)
    wanted = round(len(waveform) * SAMPLE_RATE / rate * size)
    if len(exact) == wanted:
        return exact
    places = np.arange(wanted) * (len(exact) / wanted)  # what rounding `down` left: a fraction of a per cent
    return np.interp(places, np.arange(len(exact)), exact)


def _looked_up(named: Iterable[tuple[float, float, str]], length: float, names: Names) -> tuple[Phone, ...]:
    """Phones of what a voice says of itself; gaps and what lasts no time are closed, the end is the waveform's."""
    phones: list[Phone] = []
    time = 0.0
    for _, end, name in named:
        end = min(float(end), length)
        if end - time < 1e-4:
            continue
        visemes = _visemes(name, names)
        for index, viseme in enumerate(visemes):
            stop = time + (end - time) / (len(visemes) - index)
            phones.append(Phone(time, stop, viseme, name))
            time = stop
    if phones and phones[-1].viseme == "rest":
        phones[-1] = replace(phones[-1], end=length)
    elif length - time > 1e-4:
        phones.append(Phone(time, length, "rest", "pau"))
    return tuple(phones)


def _visemes(name: str, names: Names) -> tuple[str, ...]:
    """What a phone looks like; of an unknown one the letters are looked up, and nothing known is a schwa."""
    if names is IPA:
        found = [names[letter] for letter in name if letter in names] or (
            ["rest"] if not name.strip(" .,!?;:—…'ˈˌ") else ["ah"]
        )
    else:
        short = re.sub(r"[01:]+$", "", name) or name
        doubled = short[: len(short) // 2]
        for form in (name, short, *([doubled] if doubled * 2 == short else [])):
            if form in names:
                found = [names[form]]
                break
        else:
            found = ["ah"]
    return tuple(part for entry in found for part in ((entry,) if isinstance(entry, str) else entry))


# Engines: (voice, text, random) -> (T,) float, sample rate, [(start, end, name) in s]

Spoken = tuple[np.ndarray, int, list[tuple[float, float, str]]]


def _run(command: Sequence[str | Path]) -> bytes:
    """What it prints."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LatentSyncError(f"{command[0]} failed: {error}") from error
    if done.returncode:
        raise LatentSyncError(
            f"{command[0]} ended with {done.returncode}: {done.stderr[-300:].decode(errors='replace')}"
        )
    return done.stdout


def _read(path: Path) -> tuple[np.ndarray, int]:
    try:
        with wave.open(str(path)) as file:
            rate, samples = file.getframerate(), file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise LatentSyncError(f"no sound came of it ({error})") from error
    return np.frombuffer(samples, "<i2") / 32768, rate


def _festival(voice: Voice, text: str, random: np.random.Generator) -> Spoken:
    pace, pitch = random.uniform(0.8, 1.25), random.uniform(0.75, 1.35)
    with tempfile.TemporaryDirectory() as folder:
        sound, segments, program = (Path(folder) / name for name in ("a.wav", "a.seg", "a.scm"))
        lines = [
            f"(voice_{voice.speaker})",
            f"(Parameter.set 'Duration_Stretch {pace:.3f})",
            f'(set! u (Utterance Text "{text}"))',
            "(utt.synth u)",
            f'(utt.save.wave u "{sound}")',
            f'(utt.save.segs u "{segments}")',
        ]
        if voice.speaker in ("kal_diphone", "ked_diphone"):
            model = f"(target_f0_mean {105 * pitch:.0f}) (target_f0_std {14 * pitch:.0f})"
            lines.insert(1, f"(set! int_lr_params '({model} (model_f0_mean 170) (model_f0_std 34)))")
        program.write_text("\n".join(lines))
        _run(["festival", "-b", program])
        waveform, rate = _read(sound)
        named, time = [], 0.0
        for line in segments.read_text(errors="replace").splitlines():
            fields = line.split()
            if len(fields) == 3 and fields[0][0].isdigit():
                named.append((time, float(fields[0]), fields[2]))
                time = float(fields[0])
    return waveform, rate, named


def _flite(voice: Voice, text: str, random: np.random.Generator) -> Spoken:
    pace, pitch = random.uniform(0.8, 1.25), random.uniform(0.8, 1.3)
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "a.wav"
        settings = ["--setf", f"duration_stretch={pace:.3f}", "--setf", f"f0_shift={pitch:.3f}"]
        if voice.speaker == "kal16":
            settings += ["--setf", f"int_f0_target_mean={95 * pitch:.1f}"]
        printed = _run(["flite", "-voice", voice.speaker, *settings, "-psdur", "-t", text, "-o", sound])
        waveform, rate = _read(sound)
    named, time = [], 0.0
    for name, end in re.findall(r"(\S+):(\d+\.\d+)", printed.decode(errors="replace")):
        if float(end) < time:
            raise LatentSyncError(f"flite took {text!r} for two sentences")
        named.append((time, float(end), name))
        time = float(end)
    return waveform, rate, named


def _espeak(voice: Voice, text: str, random: np.random.Generator) -> Spoken:
    settings = [str(random.integers(120, 210)), str(random.integers(25, 75)), str(random.integers(2**31))]
    program = Path(__file__).with_name("espeak_phones.py")
    answer = _run([sys.executable, "-S", program, voice.speaker, *settings, text])
    described, _, samples = answer.partition(b"\n")
    described, waveform = json.loads(described), np.frombuffer(samples, "<i2") / 32768
    rate, marks = described["rate"], described["marks"]
    if not len(waveform) or not marks:
        raise LatentSyncError(f"espeak-ng says nothing to {text!r}")
    starts = _with_closures(waveform, rate, marks)
    ends = [*starts[1:], len(waveform) / rate]
    named = [(start, end, name) for start, end, (_, name) in zip(starts, ends, marks, strict=True)]
    return waveform, rate, [(0.0, starts[0], ""), *named]


def _with_closures(waveform: np.ndarray, rate: int, marks: list[tuple[float, str]]) -> list[float]:
    """Where phones begin, s. Of voiceless stops espeak marks the burst: they begin with the silence before it."""
    level = QUIET * float(np.abs(waveform).max())
    step = 0.005  # s
    starts: list[float] = []
    for time, name in marks:
        if name[:1] in ("p", "t", "k"):
            earliest = max(time - 0.08, starts[-1] + 0.03 if starts else 0.0)
            while (
                time - step > earliest and np.abs(waveform[int((time - step) * rate) : int(time * rate)]).max() < level
            ):
                time -= step
        starts.append(time)
    return starts


@lru_cache(maxsize=1)
def _hibari():
    """{speaker: the voice with the durations of its phones as a further output}. Raises ImportError."""
    import hibari
    import onnx
    from hibari.g2p import G2P

    model = onnx.load(hibari.voices.voice_path("heart"))
    model.graph.output.append(onnx.helper.make_tensor_value_info(HIBARI_DURATIONS, onnx.TensorProto.FLOAT, None))
    whole = model.SerializeToString()
    return {"heart": hibari.Hibari(model=whole), "heart_gb": hibari.Hibari(model=whole, g2p=G2P(british=True))}


def _hibari_say(voice: Voice, text: str, random: np.random.Generator) -> Spoken:
    from hibari import dsp

    speaker = _hibari()[voice.speaker]
    letters = [letter for letter in speaker.phonemize(text)[0] if letter in speaker.vocab]
    inputs = {
        "ids": np.asarray([speaker.ids(letters)], np.int64),
        "speed": np.asarray([random.uniform(0.8, 1.25)], np.float32),
    }
    *spectra, durations = speaker.sess.run(None, inputs)
    harmonic, phase, noise, rest, angle, pitch = (part[0] for part in spectra)
    low = random.random() < 0.5  # the one voice is a woman's
    pitch = pitch * np.float32(random.uniform(0.5, 0.72) if low else random.uniform(0.8, 1.25))
    size = random.uniform(0.84, 0.93) if low else random.uniform(0.94, 1.1)
    places = np.arange(len(harmonic)) / size
    harmonic, noise = (_stretched(part, places) for part in (harmonic, noise))
    waveform = dsp.synth(harmonic, phase, noise, rest, angle, pitch, random)
    ends = np.cumsum(np.ravel(durations))
    ends = np.clip(ends * (len(waveform) / dsp.SR / ends[-1]) - HIBARI_LATE, 0, None)
    ends[-1] = len(waveform) / dsp.SR
    named = list(zip([0.0, *ends[:-1]], ends, ["", *letters, ""], strict=True))
    return waveform, dsp.SR, _without_marks(named)


def _stretched(spectrum: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of a (bins, F) spectrum read at other places: formants moved, the pitch not."""
    low = np.clip(places.astype(int), 0, len(spectrum) - 1)
    high = np.minimum(low + 1, len(spectrum) - 1)
    share = np.clip(places - low, 0, 1)[:, None]
    return (spectrum[low] * (1 - share) + spectrum[high] * share).astype(np.float32)


def _without_marks(named: list[tuple[float, float, str]]) -> list[tuple[float, float, str]]:
    """Stress, spaces and commas have times too. A stress belongs to the vowel that follows; all else that is no sound
    belongs to what was before, or is a pause where it lasts."""
    kept: list[tuple[float, float, str]] = []
    stressed = None
    for start, end, name in named:
        if name in STRESS:
            stressed = start if stressed is None else stressed
        elif name in IPA or not kept or end - start > PAUSE:
            kept.append((start if stressed is None else stressed, end, name if name in IPA else ""))
            stressed = None
        else:
            kept[-1] = (kept[-1][0], end, kept[-1][2])
    return kept


_ENGINES = {"festival": _festival, "flite": _flite, "espeak": _espeak, "hibari": _hibari_say}
