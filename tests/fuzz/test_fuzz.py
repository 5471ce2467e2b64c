"""The short form of a fuzzing run; the long one is `python -m tests.fuzz --files 2000`."""

from tests.fuzz.campaign import run, trials
from tests.fuzz.samples import make_samples

NUM_FILES = 100


def test_damaged_files_get_clean_errors():
    results = run(NUM_FILES, seed=1)
    assert len(results.answers) == NUM_FILES
    assert not results.faults, "\n\n".join(f"{fault['name']}\n{fault['said']}" for fault in results.faults)
    assert results.counts("outcome")["refused"] > NUM_FILES / 3
    assert set(results.counts("way")) == {"library", "command line"}
    assert results.growth() < 100  # MB


def test_the_same_seed_makes_the_same_files(tmp_path):
    samples = make_samples(tmp_path)
    one, same, other = ([t.content for t in trials(samples, [], 400, seed)] for seed in (7, 7, 8))
    assert one == same
    assert one != other
