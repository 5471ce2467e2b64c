"""Lip-sync in the browser: `python gradio_app.py --enable_sr`, then open the address it prints. See docs/gradio.md."""

import sys

from webapp.command_line import main

if __name__ == "__main__":
    sys.exit(main())
