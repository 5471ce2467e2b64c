"""Other addresses for the hosts that models come from, by environment variables."""

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from ..errors import OptionError

HUB = "https://huggingface.co"
GITHUB = "https://github.com"
# Of one host, in this order. HF_ENDPOINT is what Hugging Face's own programs read.
VARIABLES = {HUB: ("LATENTSYNC_MIRROR", "HF_ENDPOINT"), GITHUB: ("LATENTSYNC_GITHUB_MIRROR",)}


def mirrored(url: str, environment: Mapping[str, str] = os.environ) -> str:
    """The address with its host's base replaced where a variable says so. Raises OptionError for no web address."""
    for base, names in VARIABLES.items():
        name = next((name for name in names if environment.get(name, "").strip()), None)
        if name is not None and url.startswith(base + "/"):
            mirror = environment[name].strip().rstrip("/")
            if urlsplit(mirror).scheme not in ("http", "https") or not urlsplit(mirror).netloc:
                raise OptionError(f"{name} is {mirror!r}; expected a web address such as https://hf-mirror.com")
            return mirror + url.removeprefix(base)
    return url
