"""The loop of a watch with hand-made readings, waits and clocks."""

import os
import subprocess

import pytest

from slr_bench.errors import ConfigError
from slr_bench.report.views.watch import process_end, watch


class Log:
    """A view that records its calls."""

    def __init__(self):
        self.seen, self.endings, self.closed = [], [], 0

    def show(self, reading):
        self.seen.append(reading)

    def close(self):
        self.closed += 1

    def finish(self, ending, duration_s):
        self.endings.append(ending)


class Reader:
    def __init__(self, readings):
        self.readings = iter(readings)

    def read(self):
        value = next(self.readings)
        if isinstance(value, BaseException):
            raise value
        return value


def run(readings, count=None, wait=lambda seconds: False):
    view = Log()
    watch(Reader(readings), view, wait, 2.0, count, clock=lambda: 0.0)
    return view


@pytest.mark.parametrize(
    ("readings", "count", "seen", "ending"),
    [
        ([1, 2, None], None, [1, 2], "ended"),
        ([1, 2, 3], 2, [1, 2], "enough seen"),
        ([1, KeyboardInterrupt()], None, [1], "watch stopped"),
        ([None], 5, [], "ended"),
    ],
)
def test_a_watch_reports_whether_its_process_its_count_or_its_user_ended_it(readings, count, seen, ending):
    view = run(readings, count)
    assert (view.seen, view.endings, view.closed) == (seen, [ending], 1)


def test_slow_readings_do_not_shift_the_period():
    now_s, waits = [0.0], []

    def read():
        now_s[0] += 0.5
        return 1

    def wait(seconds):
        waits.append(seconds)
        now_s[0] += seconds
        return len(waits) == 4

    reader, view = Reader([]), Log()
    reader.read = read
    watch(reader, view, wait, 2.0, clock=lambda: now_s[0])
    assert waits == [0.0, 1.5, 1.5, 1.5]
    assert (len(view.seen), view.endings) == (3, ["ended"])


def test_the_screen_is_released_after_an_error():
    view = Log()
    with pytest.raises(BrokenPipeError):
        watch(Reader([BrokenPipeError()]), view, lambda seconds: False, 1.0)
    assert (view.closed, view.endings) == (1, [])


def test_an_unknown_process_is_reported_in_one_line():
    with pytest.raises(ConfigError, match="--pid 4194305: no such process"), process_end(4_194_305):
        pass


def test_the_end_of_a_process_ends_the_wait():
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with process_end(child.pid) as wait:
        assert not wait(0)
        child.stdin.close()
        assert wait(60)
    child.wait()


def test_without_a_process_a_wait_only_waits():
    with process_end(None) as wait:
        assert not wait(-1)
    assert os.getpid()
