"""The process pool and Ray do the same: results, faults, order, and the store that comes out, byte for byte."""

from importlib.util import find_spec

import pytest

from latentsync.errors import LatentSyncError
from training_scripts.clip_store import ClipStore
from training_scripts.preparation.engines import Outcome, ProcessPool, distribution, longest_first
from training_scripts.preparation.pipeline import Preparation
from training_scripts.preparation.probing import find_sources

from . import preparation_stages as stages
from .prepared_stores import fingerprints, short_settings

WORKERS = 2


@pytest.fixture(scope="module")
def ray_engine():
    if find_spec("ray") is None:
        pytest.skip("needs ray[data]")
    from training_scripts.preparation.engines import RayEngine

    engine = RayEngine(WORKERS)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def pool_engine():
    engine = ProcessPool(WORKERS)
    yield engine
    engine.close()


@pytest.fixture(params=["pool_engine", "ray_engine"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return short_settings(tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("nowhere"))


@pytest.fixture
def items(tmp_path):
    return [{"value": value, "cost": value, "record": "", "folder": str(tmp_path)} for value in range(8)]


def test_results_come_in_the_items_order(engine, settings, items):
    told = {}
    outcomes = engine.run(stages.doubled, items, settings, lambda index, outcome: told.update({index: outcome}))
    assert [outcome.result["value"] for outcome in outcomes] == [2 * value for value in range(8)]
    assert told == dict(enumerate(outcomes))
    assert all(outcome.worker and not outcome.trace and outcome.began <= outcome.ended for outcome in outcomes)
    assert engine.run(stages.doubled, [], settings, told.update) == []


def test_a_worker_takes_one_core(engine, settings, items):
    [outcome] = engine.run(stages.threads, items[:1], settings, lambda *_: None)
    assert outcome.result["value"] == [1, 1]


def test_a_worker_that_dies_costs_its_item_only(engine, settings, items):
    outcomes = engine.run(stages.dies_or_doubles, items, settings, lambda *_: None)
    lost = outcomes.pop(3)
    assert lost.result["rejected"].startswith("a process died of it 2 times")
    assert lost.trace
    assert [outcome.result["value"] for outcome in outcomes] == [0, 2, 4, 8, 10, 12, 14]  # 5 at the second attempt


def test_a_fault_of_the_program_costs_its_item_only(engine, settings, items):
    outcomes = engine.run(stages.fails_or_doubles, items, settings, lambda *_: None)
    lost = outcomes.pop(3)
    assert lost.result == {"rejected": "a fault of the program: list index out of range"}
    assert "in fails_or_doubles" in lost.trace
    assert [outcome.result["value"] for outcome in outcomes] == [0, 2, 4, 8, 10, 12, 14]


def test_what_concerns_all_items_ends_the_run(engine, settings, items):
    with pytest.raises(LatentSyncError, match="the disk is full"):
        engine.run(stages.fills_the_disk, items, settings, lambda *_: None)
    engine.run(stages.doubled, items, settings, lambda *_: None)  # it can be used on


def test_long_items_are_begun_first_and_nobody_waits_for_the_last(engine, settings, items):
    for _ in range(2):  # all workers are there then
        engine.run(stages.sleeps, [{**item, "cost": 0.1} for item in items], settings, lambda *_: None)
    costs = [0.05] * 10 + [0.8] + [0.05] * 10  # in the items' order the long one would begin in the middle
    given = [{**items[0], "value": i, "cost": cost} for i, cost in enumerate(costs)]
    outcomes = engine.run(stages.sleeps, given, settings, lambda *_: None)
    # handed out first, but which of the processes that were given one begins first is the machine's choice
    assert outcomes[10] in sorted(outcomes, key=lambda outcome: outcome.began)[:WORKERS]
    spread = distribution(outcomes, engine.workers)
    print(engine.name, spread)
    if engine.name == "pool":  # Ray may start another worker meanwhile, which takes seconds
        assert len(spread["busy"]) == WORKERS
        assert spread["stretch"] < 1.6


def test_ray_makes_the_pools_store_byte_for_byte(ray_engine, few_videos, few_store, tmp_path):
    preparation = Preparation(short_settings(few_videos, tmp_path / "store"), ray_engine, lambda _: None)
    preparation.run(find_sources(few_videos))
    assert len(ClipStore(tmp_path / "store")) == 3
    assert fingerprints(tmp_path / "store") == fingerprints(few_store)


def test_longest_first_and_distribution():
    assert longest_first([{"cost": cost} for cost in (1, 5, 3, 5)]) == [1, 3, 2, 0]
    outcomes = [Outcome({}, 0, 4, 3.5, "a"), Outcome({}, 0, 1, 1, "b"), Outcome({}, 1, 2, 0.5, "b")]
    spread = distribution(outcomes, workers=2)
    assert spread["busy"] == {"a": 4, "b": 2}
    # 6 s of work for two are 3, but one item alone takes 4: it cannot be done sooner
    assert (spread["last_finish"], spread["ideal"], spread["stretch"], spread["cpu"]) == (4, 4, 1, 5)
    assert distribution([], 2)["stretch"] == 1
