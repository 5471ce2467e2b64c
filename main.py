"""Lip-sync a video to a speech from the command line; the options stand in latentsync/cli/arguments.py.

Exit codes: 0 done, 1 the work failed (message on standard error), 2 wrong arguments, 130 interrupted (Ctrl-C), 143
terminated. Unless it is 0, no file was written, but for the video where only its report could not be.
"""

import os
import sys

from latentsync.cli.main import main

if __name__ == "__main__":
    # Threads that wait for each other sleep rather than spin; OpenMP asks when torch loads it, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.stdout.reconfigure(errors="backslashreplace")  # a path the terminal cannot show is no reason to fail
    sys.exit(main())
