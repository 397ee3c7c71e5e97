"""Progress of a command in a pipe."""

from itertools import count

from slr_bench.cli import base


def test_pipe_gets_a_line_of_progress_every_few_seconds(capsys, monkeypatch):
    clock = count()
    monkeypatch.setattr(base.time, "monotonic", lambda: next(clock))
    with base.show_progress("importing torch") as show:
        for number in range(1, 31):
            show(f"traced {number} of 30")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) in range(4, 8)
    assert lines[0] == "traced 5 of 30"


def test_quick_command_prints_no_progress(capsys, monkeypatch):
    monkeypatch.setattr(base.time, "monotonic", lambda: 0.0)
    with base.show_progress("importing torch") as show:
        show("traced 1 of 1")
    assert capsys.readouterr() == ("", "")
