"""The check of graphics cards: whole on the CPU, and what it makes of rows that fail, crash or find no time."""

import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu_check
from benchmarks.gpu_check import NO_MEMORY, Check, Journal, Row, modes_of, page_of, run_rows, work
from tests.unit.test_errors import FULL

CPU = torch.device("cpu")


def test_the_whole_check_runs_small_on_the_cpu(tmp_path):
    assert gpu_check.main(["--device", "cpu", "--output", str(tmp_path)]) == 0
    (page,) = tmp_path.iterdir()
    text = page.read_text(encoding="utf-8")
    rows = json.loads(text.partition("```json\n")[2].partition("\n```")[0])["rows"]
    own = modes_of(CPU)[0].name
    wanted = {"demo", "equal/float32", "equal/full size", f"full/{own}/32", "full/fp8/32", "full/offload/32"}
    assert wanted <= set(rows)
    assert [key for key, found in rows.items() if "failed" in found or "skipped" in found] == []
    equal = {key: found for key, found in rows.items() if key.startswith("equal/")}
    assert all(found["passed"] for found in equal.values())
    assert rows["equal/float32"]["error"] == 0
    assert rows["full/fp8/32"]["weights"] < 0.6 * rows[f"full/{own}/32"]["weights"]
    assert page.name.startswith("small_")
    for title in ("Cost of the networks", "Demo", "The same as on the CPU"):
        assert f"## {title}" in text
    assert "Not measured" not in text


def check_of(*rows: Row) -> SimpleNamespace:
    return SimpleNamespace(device=CPU, rows=lambda: iter(rows), forget=lambda: None)


def failing(error: Exception):
    def fail():
        raise error

    return fail


def test_each_row_fails_for_itself(tmp_path):
    journal = Journal(tmp_path / "rows.jsonl")
    rows = [
        Row("fits/fp8/256/8", "fits", 1, failing(FULL["cuda"])),
        Row("fits/fp8/256/12", "fits", 1, lambda: {"fits": True}),
        Row("full/fp8/256", "full", 1, failing(ValueError("no float8 on this card\nmore"))),
        Row("demo", "demo", 1000, failing(AssertionError("there is no time for it"))),
        Row("equal/fp8", "equal", 1, lambda: {"error": 0.5, "tolerance": 0.1, "passed": False}),
    ]
    assert work(check_of(*rows), journal, time.time() + 100) == 0
    found = journal.read()
    assert found["fits/fp8/256/8"]["failed"] == NO_MEMORY
    assert found["fits/fp8/256/12"]["fits"]
    assert found["full/fp8/256"]["failed"] == "ValueError: no float8 on this card"
    assert found["demo"]["skipped"] == "no time left: about 1000 s are needed"
    text = page_of({"hardware": "Card", "date": "2026-01-01"}, found, small=False)
    assert "| fp8 | 256 px | **no** | yes |" in text
    assert "| fp8 | 0.5 | 0.1 | **FAILED** |" in text
    assert "- ValueError: no float8 on this card: `full/fp8/256`" in text
    assert NO_MEMORY not in text.partition("## Not measured")[2]


def test_rows_of_a_kind_take_as_long_as_the_one_before(tmp_path):
    def slow():
        time.sleep(0.5)
        return {}

    journal = Journal(tmp_path / "rows.jsonl")
    rows = [Row(name, "same", 0.1, slow) for name in ("first", "second")]
    work(check_of(*rows), journal, time.time() + 1.0)
    assert "skipped" in journal.read()["second"]
    assert "skipped" not in journal.read()["first"]


CHILD = """
import json, os, sys, time
path, how = sys.argv[1:]
done = [json.loads(line)["row"] for line in open(path)] if os.path.exists(path) else []
def put(**facts):
    with open(path, "a") as file:
        file.write(json.dumps(facts) + chr(10))
if "first" not in done:
    put(row="first", begun=True)
    if how == "crashes":
        os._exit(9)
    time.sleep(60)
put(row="second", begun=True)
put(row="second", passed=True)
"""


@pytest.mark.parametrize(
    ("how", "seconds", "said", "rows"),
    [("crashes", 60, "ended the process (9)", ["first", "second"]), ("hangs", 7, "cut off: no time left", ["first"])],
)
def test_a_row_that_takes_the_process_with_it(how, seconds, said, rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    assert run_rows([sys.executable, "-c", CHILD, str(path), how], Journal(path), time.time() + seconds)
    found = Journal(path).read()
    assert list(found) == rows
    assert found["first"]["failed"] == said


def test_a_child_that_does_not_even_begin_is_an_error(tmp_path):
    assert not run_rows([sys.executable, "-c", "raise SystemExit(1)"], Journal(tmp_path / "rows"), time.time() + 60)


@pytest.mark.parametrize(
    ("name", "capability", "names"),
    [
        ("NVIDIA GeForce RTX 3060", (8, 6), ["float16", "fp8", "offload", "bfloat16"]),
        ("NVIDIA GeForce GTX 1660", (7, 5), ["float32", "fp8", "offload", "bfloat16"]),
    ],
)
def test_rows_of_a_card(name, capability, names, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    card = torch.device("cuda")
    assert [mode.name for mode in modes_of(card)] == names
    check = Check(card, small=False)
    keys = [row.key for row in check.rows()]
    assert len(keys) == len(set(keys))
    assert {f"fits/{mode}/{side}/{limit}" for mode in names for side in (256, 512) for limit in (8, 12)} <= set(keys)
    assert keys[0] == "demo"
    mode = modes_of(card)[0]
    check._fitted[mode.name, 256] = 6.9 * 2**30  # what took no more fits without being tried
    assert check.fits(mode, 256, 8)["fits"]
