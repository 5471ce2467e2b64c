"""A process of its own for espeak-ng, which would not say a sentence the same way again after others.

    python espeak_phones.py VOICE WORDS_A_MINUTE PITCH SEED TEXT

prints a line of JSON, {"rate": Hz, "marks": [[start in s, phone in IPA], ..]}, and the samples, 16 bits each.
"""

import ctypes
import json
import sys

PHONEME, END = 7, 0  # kinds of events of speak_lib.h
SPEED, PITCH = 1, 3  # parameters


class Identifier(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class Event(ctypes.Structure):
    """espeak_EVENT."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", Identifier),
    )


def main(voice: str, speed: str, pitch: str, seed: str, text: str) -> None:
    library = ctypes.CDLL("libespeak-ng.so.1")
    ctypes.CDLL(None).srand(int(seed))  # its voices breathe by the C library's random numbers
    rate = library.espeak_Initialize(2, 0, None, 1 | 2)  # synchronously; with phonemes, as IPA
    if rate <= 0:
        sys.exit("espeak-ng did not start: its data are missing (apt: espeak-ng-data)")
    parts: list[bytes] = []
    marks: list[tuple[float, str]] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))
    def hear(samples, count, events):
        if count > 0:
            parts.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != END:
            if events[index].type == PHONEME:
                name = events[index].id.string.decode("utf-8", "ignore")
                if not name.startswith("("):  # another language from here on
                    marks.append((events[index].sample / rate, name))
            index += 1
        return 0

    library.espeak_SetSynthCallback(hear)
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        sys.exit(f"espeak-ng has no voice {voice}")
    library.espeak_SetParameter(SPEED, int(speed), 0)
    library.espeak_SetParameter(PITCH, int(pitch), 0)
    said = text.encode()
    library.espeak_Synth(said, len(said) + 1, 0, 1, 0, 1, None, None)
    library.espeak_Synchronize()
    sys.stdout.buffer.write(json.dumps({"rate": rate, "marks": marks}).encode() + b"\n" + b"".join(parts))


if __name__ == "__main__":
    main(*sys.argv[1:])
