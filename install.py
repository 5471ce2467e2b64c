"""Set up and try out this project with nothing but Python 3.10 or newer.

    python install.py --demo          make .venv, install what running needs, lip-sync a drawn avatar
    python install.py --test [...]    the same with what tests need, then lint and test; other arguments go to pytest
    python install.py --env           only make or complete .venv
    python install.py --models NAME.. fetch released models (latentsync-1.6, gfpgan ...); without a name: list them
    python install.py --samples [DIR] put the example workflows' clip and speeches into ComfyUI's input folder
    python install.py                 what ComfyUI's manager runs: check the bundled files, say nothing if all is well

Only --demo, --test and --env install anything, and only into .venv beside this file; only --models fetches models, into
checkpoints/ or ComfyUI's models folder (docs/models.md). Repeating them is safe and quick.
--samples runs in the Python that starts it, which is to be ComfyUI's.
Exit codes: 0 done, 1 failed, 2 wrong arguments, 3 models are missing (--offline), 130 interrupted, with --test pytest's
or ruff's.
"""

from __future__ import annotations  # this file must get far enough on an old Python to say what is wrong

import argparse
import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACK = Path(os.path.abspath(__file__)).parent  # not resolved: it may be a link in ComfyUI's custom_nodes
OLDEST_PYTHON = (3, 10)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_SPACE = 8_000_000_000  # bytes; PyTorch for CUDA and the rest take 6 to 7 GB
STATE_FILE = "latentsync-install.json"
PAIR = ("torch", "torchvision")  # whose releases, and builds with or without CUDA, belong together
# What shows that a package loads, by its requirement; in this order, since the rest stands on the first ones.
LOADS = {
    "numpy": "import numpy",
    "torch": "import torch",
    "torchvision": "import torchvision.ops",
    "transformers": "from transformers import PreTrainedModel",
    "diffusers": "from diffusers import AutoencoderKL",
    "accelerate": "import accelerate",
    "kornia": "import kornia",
    "spandrel": "import spandrel",
    "scipy": "import scipy.ndimage",
    "opencv-python": "import cv2",
    "opencv-python-headless": "import cv2",
    "av": "import av",
}
TRY_LOADS = """
import json, sys
for name, statement in json.loads(sys.argv[1]).items():
    print(name, flush=True)  # also what kills this process has a name
    try:
        exec(statement)
    except BaseException as error:
        while error.__cause__ is not None:
            error = error.__cause__
        sys.exit(f"{type(error).__name__}: {error}")
"""
INTERRUPTED = 130


class InstallError(Exception):
    """Something the user can act upon; the message says what."""


# The bundled files


def check_bundle() -> int:
    """What a host runs after it has installed the requirements: no network, no pip, no output if all is well."""
    from latentsync.model_files import damaged_files

    faults = damaged_files(ROOT / "latentsync" / "assets")
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults:
        print(
            "The bundled model files are damaged: get this folder again, with git or from the archive.", file=sys.stderr
        )
    return 1 if faults else 0


# The environment


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> None:
    """Raises InstallError for a Python that is too old."""
    if version[:2] < OLDEST_PYTHON:
        wanted, found = ".".join(map(str, OLDEST_PYTHON)), ".".join(map(str, version))
        raise InstallError(
            f"This is Python {found} ({sys.executable}); {wanted} or newer is needed. Install one from python.org "
            "or your system's packages and start this file with it, for example: python3.11 install.py --demo"
        )


def check_venv_module(find=importlib.util.find_spec) -> None:
    """Raises InstallError where Python came without its parts for making environments, as on Debian and Ubuntu."""
    if find("venv") is None or find("ensurepip") is None:
        name = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
        raise InstallError(
            f"This Python ({sys.executable}) cannot make virtual environments. "
            f"On Debian and Ubuntu: sudo apt install {name}. "
            "Without root: use a Python from python.org, pyenv, uv or conda, which has them."
        )


def requirement_lines(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def extra_requirements(path: Path, extra: str) -> list[str]:
    """One list of [project.optional-dependencies]; read without tomllib, which Python 3.10 does not have."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^{extra} = \[(.*?)\][ \t]*(?:#[^\n]*)?$", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise InstallError(f"{path} has no list {extra!r} of optional dependencies")
    return re.findall(r'"([^"]+)"', re.sub(r"#.*", "", found[1]))


def requirements_of(root: Path, with_tests: bool, platform: str = sys.platform) -> list[str]:
    """What goes into .venv.

    On Linux OpenCV's build without windows: it needs no system libraries, the other one needs OpenGL and X11.
    """
    lines = requirement_lines(root / "requirements.txt")
    if with_tests:
        lines += [line for line in extra_requirements(root / "pyproject.toml", "test") if line not in lines]
    if platform.startswith("linux"):
        lines = [re.sub(r"^opencv-python(?![\w-])", "opencv-python-headless", line) for line in lines]
    return lines


class Environment:
    """The folder .venv and what was installed into it.

    State lies in the folder itself: "made" says that this program made it, "busy" that pip was at work, "keys" are
    fingerprints of what was installed completely, "loads" is that of the releases which were seen to load.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def state(self) -> dict:
        try:
            state = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def remember(self, **changes: object) -> None:
        part = self.folder / (STATE_FILE + ".part")
        part.write_text(json.dumps({**self.state(), **changes}), encoding="utf-8")
        os.replace(part, self.folder / STATE_FILE)

    def version(self) -> str | None:
        """Of the Python inside, if it starts and has pip; else None."""
        code = "import importlib.util as u, sys; assert u.find_spec('pip'); print(*sys.version_info[:3], sep='.')"
        try:
            run = subprocess.run([self.python, "-c", code], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    def ensure(self) -> str:
        """Make the environment if it is absent, broken or half filled; returns its Python version.

        Only an environment that this program made is ever thrown away. Raises InstallError.
        """
        state, version = self.state(), self.version()
        if version and not (state.get("made") and state.get("busy")):
            check_python(tuple(map(int, version.split("."))))
            return version
        strange = self.folder.exists() and not state.get("made") and any(self.folder.iterdir())
        if strange:
            raise InstallError(
                f"{self.folder} is there but is no working Python environment, and was not made by this program. "
                "Move it away or delete it, then run the same command again."
            )
        check_venv_module()
        if self.folder.exists():
            say(f"{self.folder} is incomplete: making it anew")
            shutil.rmtree(self.folder)
        else:
            say(f"making {self.folder}")
        self.folder.mkdir(parents=True)
        self.remember(made=True, busy=True)  # before anything else, so that an interruption is recognised
        made = subprocess.run([sys.executable, "-m", "venv", self.folder], capture_output=True, text=True)
        version = self.version()
        if made.returncode != 0 or version is None:
            raise InstallError(f"Python could not make {self.folder}:\n{(made.stdout + made.stderr).strip()[-2000:]}")
        self.remember(busy=False)
        return version

    def install(
        self, requirements: list[str], version: str, *, cpu: bool, covers: list[list[str]], alone: Sequence[str] = ()
    ) -> None:
        """Install unless exactly this was installed before; ``covers`` are smaller lists that are then there too.

        ``alone`` are installed without the packages that they ask for. What is there has been seen to load when this
        returns. Raises InstallError when pip fails, or where something does not load.
        """
        keys = [fingerprint(lines, version) for lines in ([*requirements, *alone], *covers)]
        from_cpu_index = cpu and sys.platform.startswith("linux")
        if keys[0] in self.state().get("keys", []):
            self.ensure_loads(requirements, from_cpu_index)
            return
        say(f"installing {len(requirements)} packages and what they need; the first time takes minutes")
        warn_of_little_space(self.folder, cpu)
        self.remember(busy=True)
        pair = [line for line in requirements if name_of(line) in PAIR]
        if from_cpu_index and pair and (from_cpu_index := can_reach(CPU_INDEX)):
            self._pip(["--index-url", CPU_INDEX, *pair])
        self._pip(requirements)
        if alone:
            self._pip(["--no-deps", *alone])
        self.remember(busy=False)
        self.ensure_loads(requirements, from_cpu_index)
        self.remember(keys=[*self.state().get("keys", []), *keys])

    def ensure_loads(self, requirements: list[str], from_cpu_index: bool) -> None:
        """See that what is installed loads; where torch and torchvision do not, install both again.

        Only where other releases are there than when it was last seen. Raises InstallError, which says what to do.
        """
        names = [name_of(line) for line in requirements if name_of(line) in LOADS]
        if not names or self.state().get("loads") == self.releases(names):
            return
        fault = self.fault(names)
        for arguments in self._pairs(from_cpu_index) if fault and set(PAIR) <= set(names) else ():
            say(f"torch and torchvision do not load together ({fault}): installing both again")
            with contextlib.suppress(InstallError):  # the next way, else the fault is told
                self._pip(arguments, only_these_indexes="--index-url" in arguments)
                self._pip(requirements)  # what the new ones need
            if not (fault := self.fault(names)):
                break
        if fault:
            found = ", ".join(self.releases([name for name in names if name in (*PAIR, fault.partition(":")[0])]))
            raise InstallError(
                f"What was installed does not load ({fault}); found: {found}. A wheel that does not fit was taken from "
                "somewhere: look at PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL and `python -m pip config list`, take out what "
                f"has other builds of PyTorch, delete {self.folder} and run the same command again."
            )
        self.remember(loads=self.releases(names))

    def _pairs(self, from_cpu_index: bool) -> Iterator[list[str]]:
        """Arguments for pip, one list after the other, that may bring a torch and a torchvision that fit."""
        again = ["--upgrade", "--force-reinstall", "--no-deps", *PAIR]
        if from_cpu_index and can_reach(CPU_INDEX):
            yield ["--index-url", CPU_INDEX, *again]
        yield again
        for release in self.releases(["torch"]):
            public, label, _ = release.partition(" ")[2].partition("+")
            if label:  # === takes the index's own build, where == would be content with 2.13.0+cpu for 2.13.0
                yield [f"torch==={public}", "torchvision"]

    def releases(self, names: list[str]) -> list[str]:
        """ "torch 2.14.0" and the like of those that are installed, from the names of folders alone."""
        homes = [self.folder / "Lib" / "site-packages", *self.folder.glob("lib/python3*/site-packages")]
        found = sorted({place.name for home in homes for place in home.glob("*.dist-info")})
        parts = [name.removesuffix(".dist-info").rpartition("-") for name in found]
        return [f"{name} {version}" for name, _, version in parts if name_of(name) in names]

    def fault(self, names: list[str]) -> str:
        """The first of the packages that does not load, and why; "" where all do."""
        statements = {name: LOADS[name] for name in LOADS if name in names}
        command = [self.python, "-c", TRY_LOADS, json.dumps(statements)]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=self.folder)
        if run.returncode == 0:
            return ""
        last = (run.stdout.split() or ["python"])[-1]
        said = run.stderr.strip().splitlines() or [f"ended with code {run.returncode}"]
        return f"{last}: {said[-1][:300]}"

    def _pip(self, arguments: list[str], only_these_indexes: bool = False) -> None:
        """pip install. only_these_indexes: whatever else pip is told to look at, by a file or by variables."""
        environ = dict(os.environ)
        if only_these_indexes:
            environ["PIP_CONFIG_FILE"] = os.devnull
            for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
                environ.pop(name, None)
        quiet = ["--disable-pip-version-check", "--progress-bar", "off"]
        command = [self.python, "-m", "pip", "install", *quiet, *arguments]
        last: deque[str] = deque(maxlen=15)
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environ
        )
        try:
            for line in process.stdout:
                last.append(line.rstrip())
                if re.match(r"\s*(Downloading|Building|Installing)\b", line):
                    say("  " + line.strip()[:110])
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if code != 0:
            raise InstallError(pip_advice(list(last)))


def name_of(requirement: str) -> str:
    """A distribution's name as its requirement or its folder has it, in the one spelling."""
    return re.match(r"[\w.-]*", requirement)[0].lower().replace("_", "-")


def can_reach(index: str) -> bool:
    """Whether the package index answers within seconds; where not, says what that means. pip would try for minutes."""
    try:
        with urllib.request.urlopen(index, timeout=10):  # noqa: S310 (an address of this file's own)
            return True
    except urllib.error.HTTPError:
        return True  # it answers; pip knows how to ask it
    except (OSError, ValueError) as error:
        if isinstance(getattr(error, "reason", None), ssl.SSLError):
            return True  # pip may have been given a certificate
        say(
            f"{index} cannot be reached ({getattr(error, 'reason', error)}): PyTorch is taken from where pip finds it, "
            "which may be the build for CUDA (7 GB)"
        )
        return False


def fingerprint(requirements: list[str], version: str) -> str:
    """What an installation depends on, as one short text."""
    text = "\n".join([version, sys.platform, *sorted(requirements)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def pip_advice(last: list[str]) -> str:
    """pip's last lines and what to do about them."""
    text = "\n".join(last)
    if re.search(r"No space left|Errno 28", text):
        advice = (
            "The disk is full: free about 8 GB, or on Linux without an NVIDIA card delete .venv and add --cpu (2 GB)."
        )
    elif re.search(r"resolution|NewConnectionError|Max retries|timed out|ConnectTimeout|ReadTimeout|unreachable", text):
        advice = (
            "The package index could not be reached: check the connection or the proxy (HTTPS_PROXY) and run the same "
            "command again. Offline: fetch the packages elsewhere with `pip download -r requirements.txt -d wheels`, "
            "then set PIP_NO_INDEX=1 and PIP_FIND_LINKS to that folder."
        )
    elif re.search(r"No matching distribution|Could not find a version", text):
        advice = (
            f"The package index has nothing for this Python ({sys.version.split()[0]}) and system; "
            "try Python 3.11 or 3.12. If the machine is offline, connect it or point PIP_INDEX_URL to a mirror."
        )
    else:
        advice = "Run the same command again; if it fails again, the lines above say which package it was."
    return f"pip failed:\n{text}\n\n{advice}"


def warn_of_little_space(folder: Path, cpu: bool) -> None:
    free = shutil.disk_usage(folder).free
    if sys.platform.startswith("linux") and not cpu and free < NEEDED_SPACE:
        say(f"warning: {free / 1e9:.1f} GB are free here, about {NEEDED_SPACE / 1e9:.0f} are needed; --cpu needs 2")


@contextlib.contextmanager
def only_one(path: Path):
    """Hold a lock that the system releases even if this program is killed. Raises InstallError if another has it."""
    from latentsync.files import locked

    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(path))
        except BlockingIOError as error:
            raise InstallError("Another installation is at work in this folder: wait until it is done.") from error
        yield


def prepare(with_tests: bool, cpu: bool) -> Path:
    """A complete environment; returns its Python."""
    environment = Environment(ROOT / ".venv")
    with only_one(ROOT / ".venv.lock"):
        version = environment.ensure()
        running = requirements_of(ROOT, with_tests=False)
        if with_tests:
            requirements = requirements_of(ROOT, with_tests=True)
            extras = [extra_requirements(ROOT / "pyproject.toml", extra) for extra in ("parity", "heads")]
            alone = [line for lines in extras for line in lines if line not in requirements]
            environment.install(requirements, version, cpu=cpu, covers=[running], alone=alone)
            # Where ComfyUI cannot be had this says so, and the tests that need it are skipped.
            subprocess.run([environment.python, ROOT / "tests" / "comfy" / "setup_host.py"], cwd=ROOT)
        else:
            environment.install(running, version, cpu=cpu, covers=[])
    return environment.python


# What is done in it


def demo(python: Path) -> int:
    """The demo says itself where its results are."""
    return subprocess.run([python, "-m", "latentsync.demo", "--output", ROOT / "output" / "demo"], cwd=ROOT).returncode


def test(python: Path, pytest_arguments: list[str]) -> int:
    """Lint, then tests; all of them run, the summary comes last. Returns pytest's exit code, else ruff's."""
    say("ruff check")
    lint = subprocess.run([python, "-m", "ruff", "check", "."], cwd=ROOT).returncode
    say("ruff format --check")
    style = subprocess.run([python, "-m", "ruff", "format", "--check", "."], cwd=ROOT).returncode
    say("pytest")
    tests = subprocess.run([python, "-m", "pytest", *pytest_arguments], cwd=ROOT).returncode
    verdicts = [
        f"{name} {'FAILED' if code else 'ok'}" for name, code in (("lint", lint), ("format", style), ("tests", tests))
    ]
    say(", ".join(verdicts))
    return tests or lint or style


def samples(folder: str) -> int:
    """The samples' program says itself what it did; it runs in this Python, which is to be ComfyUI's."""
    try:
        from latentsync import samples
    except ModuleNotFoundError as error:
        raise InstallError(
            f"This Python ({sys.executable}) lacks {error.name!r}. Start this with the Python that ComfyUI runs in."
        ) from error
    return samples.main([folder] if folder else [])


def models(arguments: argparse.Namespace) -> int:
    """Fetch models, with nothing but the standard library."""
    from latentsync.download import download_models

    return download_models(
        arguments.models,
        pack=PACK,
        checkpoints=arguments.checkpoints,
        models_dir=arguments.models_dir,
        offline=arguments.offline,
        accepted=arguments.accept_licence,
    )


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def say(text: str) -> None:
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--demo", action="store_true", help="lip-sync a drawn avatar and show the result")
    what.add_argument("--test", action="store_true", help="lint and test; arguments not listed here go to pytest")
    what.add_argument("--env", action="store_true", help="only make or complete .venv")
    text = "write the example workflows' clip and speeches into DIR (default: input of the ComfyUI that has this pack)"
    what.add_argument("--samples", nargs="?", const="", metavar="DIR", help=text)
    parser.add_argument(
        "--cpu", action="store_true", help="Linux, when .venv is made: PyTorch without CUDA, 2 GB instead of 7"
    )
    fetching = parser.add_argument_group("models", "alone, or after --env")
    fetching.add_argument("--models", nargs="*", metavar="NAME", help="fetch these models; without a name: list them")
    fetching.add_argument("--offline", action="store_true", help="only say what is missing, and where to put it")
    fetching.add_argument("--checkpoints", metavar="DIR", help="folder of models (default: checkpoints)")
    fetching.add_argument("--models-dir", metavar="DIR", help="ComfyUI's models folder (default: that of the pack's)")
    text = "accept a model's licence, as CodeFormer's, without being asked"
    fetching.add_argument("--accept-licence", action="append", default=[], metavar="NAME", help=text)
    arguments, others = parser.parse_known_args(argv)
    if others and not arguments.test:
        parser.error(f"unknown arguments: {' '.join(others)}")
    about_models = arguments.offline or arguments.checkpoints or arguments.models_dir or arguments.accept_licence
    if about_models and arguments.models is None:
        parser.error("--offline, --checkpoints, --models-dir and --accept-licence belong to --models")
    if arguments.models is not None and (arguments.demo or arguments.test or arguments.samples is not None):
        parser.error("--models goes alone or with --env")
    signal.signal(signal.SIGTERM, interrupt)  # so that pip is stopped too
    try:
        check_python()
        sys.path.insert(0, str(PACK))  # an embedded Python, or one in isolated mode, does not look beside the script
        if arguments.samples is not None:
            return samples(arguments.samples)
        if not (arguments.demo or arguments.test or arguments.env):
            return check_bundle() if arguments.models is None else models(arguments)
        python = prepare(arguments.test, arguments.cpu)
        if arguments.demo:
            return demo(python)
        if arguments.test:
            return test(python, others)
        return 0 if arguments.models is None else models(arguments)
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
