"""The ending of a job becomes an outcome, and no reason names a path."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from slr_bench.execute.job import Ending, JobResult, MachineReadings
from slr_bench.record import Outcome, without_paths


def ending(*, result=None, by=None, code=None, timed_out=False) -> Ending:
    return Ending(result=result, signal=by, code=code, timed_out=timed_out, duration_s=1.0)


def outcome_of(end: Ending, counter: str | None = None) -> tuple[Outcome, str | None]:
    whole = replace(end, timeout_s=600.0, machine=MachineReadings(oom_counter=counter))
    return whole.outcome, whole.reason


@pytest.mark.parametrize("outcome", list(Outcome))
def test_result_of_the_worker_decides_the_outcome(outcome):
    result = JobResult(outcome, "a reason", {})
    assert outcome_of(ending(result=result, code=0)) == (outcome, "a reason")
    assert outcome_of(ending(result=result, by=signal.SIGKILL), "its cgroup's") == (outcome, "a reason")


def test_timeout_takes_precedence_over_the_signal_that_enforced_it():
    outcome, reason = outcome_of(ending(by=signal.SIGKILL, timed_out=True), "its cgroup's")
    assert outcome is Outcome.TIMEOUT
    assert "600 s" in reason
    assert "timeout_s" in reason


@pytest.mark.parametrize(
    ("by", "counter", "expected"),
    [
        (signal.SIGKILL, "its cgroup's", Outcome.OOM_HOST),
        (signal.SIGKILL, "the machine's", Outcome.OOM_HOST),
        (signal.SIGKILL, None, Outcome.CRASH),
        (signal.SIGSEGV, "its cgroup's", Outcome.CRASH),
        (signal.SIGTERM, "its cgroup's", Outcome.CRASH),
    ],
)
def test_sigkill_is_out_of_memory_only_if_a_counter_increased(by, counter, expected):
    outcome, reason = outcome_of(ending(by=by), counter)
    assert outcome is expected
    assert by.name in reason
    assert (counter is not None and counter in reason) == (expected is Outcome.OOM_HOST)


def test_every_signal_that_can_end_a_process_has_an_outcome():
    for number in range(1, signal.SIGRTMAX + 1):
        outcome, reason = outcome_of(ending(by=number))
        assert outcome is Outcome.CRASH
        assert reason


@pytest.mark.parametrize("code", [0, 1, 3])
def test_ending_without_a_result_is_a_crash(code):
    outcome, reason = outcome_of(ending(code=code))
    assert outcome is Outcome.CRASH
    assert f"status {code}" in reason


@pytest.mark.parametrize(
    ("reason", "clean"),
    [
        ("cannot read /data/signs/videos/1.mp4", "cannot read signs/videos/1.mp4"),
        ("cannot read /data/signs", "cannot read signs"),
        (f"in {Path.cwd()}/models/x.py", "in models/x.py"),
        ("ran at 5 clips/s; rank 1/2", "ran at 5 clips/s; rank 1/2"),
        ("use 4 or 8", "use 4 or 8"),
    ],
)
def test_paths_of_the_setting_and_the_working_directory_are_removed(reason, clean):
    assert without_paths(reason, '{"data": {"dir": "/data/signs"}, "model": {"weights": null}, "n": [1]}') == clean


@pytest.mark.parametrize("path", ["/srv/alice/clips/1.mp4", "/home/alice/x.py", f"{Path.home()}/a/b.py"])
def test_every_other_directory_is_removed_from_a_reason(path):
    """The name of the file may stay because it identifies the file. Its directory is private to the user."""
    name = Path(path).name
    for around in ("cannot read {}", "FileNotFoundError: '{}'", "({}:12) failed", "{}"):
        assert without_paths(around.format(path), "{}") == around.format(name)
