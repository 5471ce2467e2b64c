#!/usr/bin/env bash
# Make or complete .venv beside this file, and activate it when sourced:
#
#     source setup_env.sh
#     source setup_env.sh --models latentsync-1.6     the same, then fetch models (docs/models.md)
#
# The work is install.py's (python3 install.py --env); PYTHON=/path/to/python chooses another Python, other arguments
# (--cpu) are passed on. Sourced into bash or zsh it never ends the shell and changes nothing but the activation.

_latentsync_setup() {
    local root=$1 python activate
    shift
    python=${PYTHON:-}
    if [ -z "$python" ]; then
        if command -v python3 >/dev/null 2>&1; then python=python3; else python=python; fi
    fi
    if ! command -v "$python" >/dev/null 2>&1; then
        echo "No Python was found ($python). Install Python 3.10 or newer, or set PYTHON to one." >&2
        return 1
    fi
    "$python" "$root/install.py" --env "$@" || return $?
    activate=$root/.venv/bin/activate
    [ -f "$activate" ] || activate=$root/.venv/Scripts/activate # Windows
    if [ "$_latentsync_sourced" = 1 ]; then
        . "$activate"
    else
        echo "Ready. To activate it: source $activate"
    fi
    case " $* " in
    *" --models "*) ;;
    *) echo "Models for real faces are fetched by: source setup_env.sh --models latentsync-1.6" ;;
    esac
}

if [ -n "${ZSH_VERSION:-}" ]; then
    _latentsync_root=$(eval 'cd "$(dirname "${(%):-%x}")" && pwd')
    case $ZSH_EVAL_CONTEXT in *:file*) _latentsync_sourced=1 ;; *) _latentsync_sourced=0 ;; esac
else
    _latentsync_root=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
    if (return 0 2>/dev/null); then _latentsync_sourced=1; else _latentsync_sourced=0; fi
fi

_latentsync_setup "$_latentsync_root" "$@"
_latentsync_code=$?
unset -f _latentsync_setup
if [ "$_latentsync_sourced" = 1 ]; then
    unset _latentsync_root _latentsync_sourced
    # The code goes through eval, so that the variable can be removed first.
    eval "unset _latentsync_code; return $_latentsync_code"
fi
exit "$_latentsync_code"
