"""Lip-sync in the browser: `python gradio_app.py --enable_sr`, then open the address it prints. See docs/gradio.md."""

import os
import sys

from webapp.command_line import main

if __name__ == "__main__":
    # Threads that wait for each other sleep rather than spin; OpenMP asks when torch loads it, which is later.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(main())
