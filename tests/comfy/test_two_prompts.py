"""Prompts that wait for each other in one host, and two hosts that keep what they know of clips in one folder."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.comfy import media
from tests.comfy.conftest import PACK
from tests.comfy.graphs import all_in_one
from tests.comfy.server import ComfyServer
from tests.comfy.setup_host import ROOT

SEEDS = 5, 6


@pytest.fixture(scope="module")
def second_server(server, tmp_path_factory, clips):
    """A host of its own that shares the first one's cache."""
    cache = {"LATENTSYNC_CACHE": server.env["LATENTSYNC_CACHE"]}
    running = ComfyServer(tmp_path_factory.mktemp("second"), {PACK: ROOT}, env=cache)
    for file in (clips.talk, clips.speech):
        running.add_input(clips.folder / file)
    with running:
        yield running


def test_prompts_at_the_same_time_do_not_harm_each_other(server, second_server, clips):
    """The same two prompts in each of two hosts, all four sent at once: every host makes the same videos of them."""
    graphs = [all_in_one(clips.talk, clips.speech, duration=0.4, steps=1, seed=seed) for seed in SEEDS]
    places = [(host, graph) for graph in graphs for host in (server, second_server)]
    with ThreadPoolExecutor(len(places)) as threads:
        runs = list(threads.map(lambda place: place[0].run(place[1]), places))
    assert [run.status for run in runs] == ["success"] * 4, [run.message for run in runs]
    assert len({run.files for run in runs}) == 4
    first, same_as_first, second, same_as_second = [media.decoded(run.files[0]) for run in runs]
    np.testing.assert_array_equal(first, same_as_first)
    np.testing.assert_array_equal(second, same_as_second)
    assert len(first) == len(second) == 10
    assert np.abs(first.astype(int) - second).max() > 3  # each is of its own prompt
