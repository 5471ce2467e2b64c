#!/bin/sh
# Scores of a result: ./eval/eval_quality.sh --video_path output.mp4 --metric psnr ssim fid
# On Windows, or in an environment of one's own: python -m eval.eval_quality with the same arguments.
root=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
[ -n "$PYTHON" ] || [ -x "$python" ] || python=python
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m eval.eval_quality "$@"
