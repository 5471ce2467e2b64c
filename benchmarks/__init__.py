"""Measurements to make again after a change of model or engine: one question a file, one subcommand a measurement."""

import argparse
import inspect
from collections.abc import Callable, Sequence

Options = Callable[[argparse.ArgumentParser], object]
Measurement = Callable[[argparse.Namespace], int | None]


def run_command(
    description: str, commands: dict[str, tuple[Options, Measurement]], argv: Sequence[str] | None = None
) -> int:
    """Parse the arguments, run the measurement they name and return its exit status.

    Args:
        description: help of the whole file.
        commands: by name, what adds the options to a parser, and the measurement, whose docstring is its help.
    """
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=kind)
    parts = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (options, measurement) in commands.items():
        text = inspect.getdoc(measurement) or ""
        part = parts.add_parser(name, help=text.partition("\n")[0], description=text, formatter_class=kind)
        options(part)
        part.set_defaults(measurement=measurement)
    arguments = parser.parse_args(argv)
    return arguments.measurement(arguments) or 0
