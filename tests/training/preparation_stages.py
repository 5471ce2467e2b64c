"""Stages that misbehave, for tests of the engines. A module of its own: workers import it."""

import os
import time
from pathlib import Path

from latentsync.errors import OutputError


def doubled(item: dict, settings) -> dict:
    return {"value": 2 * item["value"]}


def threads(item: dict, settings) -> dict:
    import cv2
    import torch

    return {"value": [torch.get_num_threads(), cv2.getNumThreads()]}


def dies_or_doubles(item: dict, settings) -> dict:
    """The process is gone at item 3, each time; at item 5 the first time only."""
    mark = Path(item["folder"]) / f"tried{item['value']}"
    first = not mark.exists()
    mark.touch()
    if item["value"] == 3 or (item["value"] == 5 and first):
        os._exit(66)
    return doubled(item, settings)


def fails_or_doubles(item: dict, settings) -> dict:
    if item["value"] == 3:
        return {"value": [][item["value"]]}  # a fault of the program
    return doubled(item, settings)


def fills_the_disk(item: dict, settings) -> dict:
    raise OutputError("the disk is full")


def sleeps(item: dict, settings) -> dict:
    time.sleep(item["cost"])
    return doubled(item, settings)
