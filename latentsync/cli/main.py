"""The command line's entry: read the arguments, run, end with the exit code that says how it went."""

import logging
import signal
import sys

from ..commands import DONE, KILLED, clean_stops, complain
from .arguments import check_inputs, parse
from .job_file import check_files, read_rows


def main(argv: list[str] | None = None) -> int:
    """Run and return the exit code; wrong arguments and --help exit at once, as argparse does."""
    argv = sys.argv[1:] if argv is None else argv
    arguments, given = parse(argv)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.ERROR if arguments.quiet else logging.WARNING,
        format="%(levelname)s: %(message)s",
    )
    try:
        with clean_stops():
            # Seconds, for torch and all that stands on it: --help, typing errors and wrong paths do without.
            if arguments.batch is not None:
                check_files(arguments.batch, read_rows(arguments.batch, arguments, given))
                from .batch import run_batch

                return run_batch(arguments, given)
            check_inputs(arguments, given)
            from ..media.output_file import check_output

            check_output(arguments.video_out_path)
            from .run import run

            run(arguments, given)
    except KeyboardInterrupt as stop:
        print("interrupted; no file was written", file=sys.stderr)
        return KILLED + (stop.args[0] if stop.args else signal.SIGINT)
    except Exception as error:
        return complain(error, arguments.verbose)
    return DONE
