"""argparse, for people who type an option's name nearly right: nothing is guessed, the nearest name is said."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import NoReturn

# How other programs name what `main.py` has, in its spelling. Names that are merely misspelt are found without.
ELSEWHERE = {
    "output": "video_out_path",
    "out": "video_out_path",
    "result": "video_out_path",
    "video": "video_path",
    "input": "video_path",
    "audio": "audio_path",
    "speech": "audio_path",
    "steps": "inference_steps",
    "num_inference_steps": "inference_steps",
    "cfg": "guidance_scale",
    "guidance": "guidance_scale",
    "unet": "model",
    "checkpoint": "model",
}


class OptionParser(argparse.ArgumentParser):
    """Takes no beginnings of names: --out would be --output_audio. A mistake is one line, without a list of options."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        """As argparse's; what is unknown is told before what is missing, since it may be that."""
        args = list(sys.argv[1:] if args is None else args)
        if unknown := self._unknown(args):
            self.error(", ".join(self._told(option) for option in unknown))
        return super().parse_args(args, namespace)

    def _unknown(self, args: list[str]) -> list[str]:
        """Options by name that are none here; all after -- are no options."""
        before = args[: args.index("--")] if "--" in args else args
        names = (text.partition("=")[0] for text in before if text.startswith("--"))
        return [name for name in dict.fromkeys(names) if name not in self._option_string_actions]

    def _told(self, option: str) -> str:
        """That an option is unknown, and which one may be meant."""
        known = {name.lstrip("-"): name for name in self._option_string_actions if name.startswith("--")}
        plain = option.lstrip("-").lower().replace("-", "_")
        spelled = {name.replace("-", "_"): name for name in known}
        near = spelled.get(plain) or (ELSEWHERE.get(plain) if ELSEWHERE.get(plain) in known else None)
        near = near or next(
            (spelled[name] for name in difflib.get_close_matches(plain, spelled, n=1, cutoff=0.7)), None
        )
        return f"there is no option {option}" + (f": did you mean {known[near]}?" if near else "")

    def error(self, message: str) -> NoReturn:
        """One line, and where the options are listed."""
        self.exit(2, f"{self.prog}: error: {message} ({self.prog} --help lists the options)\n")
