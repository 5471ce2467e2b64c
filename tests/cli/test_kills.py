"""Runs that are killed and started again, in short; `python -m benchmarks.faults kills --kills 50` is the long form."""

from benchmarks.faults import kill_and_resume


def test_five_kills(tmp_path):
    outcome = kill_and_resume(tmp_path, 5)
    assert outcome.kills >= 5
    assert outcome.rounds >= 1
    assert outcome.different == ()
    assert outcome.left_over == ()
