"""Watching: the loop with hand-made readings and clocks, and a reading as screen, line and JSON."""

import io
import json
import os
import re
import subprocess

import pytest
from rich.console import Console

from slr_bench.errors import ConfigError
from slr_bench.probes.host import HostMemory, Thresholds
from slr_bench.probes.live import GpuNow, LiveReading, Peaks
from slr_bench.probes.nvml import GpuReading, GpuState
from slr_bench.probes.tree import ProcessMemory
from slr_bench.report.views.watch import line, process_end, reading_json, screen, summary, summary_json, watch
from slr_bench.units import GIB, MIB


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


WELL = GpuNow(
    0,
    "NVIDIA H100 80GB HBM3",
    GpuReading(3 * GIB, 70 * GIB, 80 * GIB),
    GpuState(0.45, 61, 10**9, 10**9, 300.0, ("power cap", "thermal slowdown (hardware)")),
    {},
)
SILENT = GpuNow(
    1,
    "NVIDIA GeForce RTX 4090",
    GpuReading(None, None, None),
    GpuState(None, None, None, None, None, None),
    {"process_bytes": "GPU is lost", "device_bytes": "GPU is lost", "power_w": "GPU is lost too"},
)


def reading(used=0.5, gpus=(), processes=3, pss=True, age_s=0.0):
    rows = tuple(
        ProcessMemory(4_000_000 + number, "python -m slr_bench.run.executors", 900 * MIB, 950 * MIB)
        for number in range(processes)
    )
    shares = {row.pid: 400 * MIB for row in rows} if pss else {}
    return LiveReading(HostMemory(int(used * 16 * GIB), 16 * GIB, "cgroup v2"), rows, shares, tuple(gpus), age_s)


def peaks_of(*readings):
    peaks = Peaks()
    for one in readings:
        peaks.add(one)
    return peaks


def drawn(one, no_gpu=None, width=80, colour=False):
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colour, color_system="standard" if colour else None
    )
    console.print(screen(one, peaks_of(one), [1.0, 2.0, 4.0], Thresholds(), no_gpu))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_fits_its_width(width):
    text = drawn(reading(gpus=[WELL, SILENT], processes=20), width=width)
    assert max(map(len, text.splitlines())) <= width
    for whole in ("7.81 GiB", "peak", "8.00 GiB (50 %)", "16.00 GiB", "3.00 GiB", "70.00 GiB", "45 %", "61 °C"):
        assert whole in text
    assert "▃▅█" in text
    assert "and 8 more" in text
    assert "4000011" in text


def test_an_unknown_value_is_a_dash_with_its_reason():
    text = drawn(reading(gpus=[SILENT]))
    row = next(row for row in text.splitlines() if row.startswith("1 "))
    assert "0 B" not in row
    assert row.count("–") == 6
    assert "–: GPU is lost" in text


@pytest.mark.parametrize(("used", "code"), [(0.5, "32"), (0.90625, "33"), (0.96875, "1;31")])
def test_the_limit_is_coloured_by_its_threshold(used, code):
    assert f"\x1b[{code}m{used * 16:.2f} GiB" in drawn(reading(used), colour=True)


def test_without_gpus_the_screen_names_the_cure():
    assert "slr-bench doctor" in drawn(reading(), no_gpu="NVML: no driver")
    assert "GPU" not in drawn(reading())


def test_a_watch_of_the_machine_lists_no_processes():
    text = drawn(reading(processes=0))
    assert "PID" not in text
    assert "▃▅█" in text


@pytest.mark.parametrize(
    ("used", "pss", "expected"),
    [
        (
            0.5,
            True,
            "12:00:00  RAM 2.64 GiB  shared pages once 1.17 GiB  peak 2.64 GiB  cgroup v2 8.00 GiB of 16",
        ),
        (0.97, True, "97 % CRITICAL"),
        (
            0.92,
            False,
            "RAM 2.64 GiB  shared pages once –  peak 2.64 GiB  cgroup v2 14.72 GiB of 16.00 GiB 92 % WARNING",
        ),
    ],
)
def test_a_line_has_the_value_its_kind_and_the_level(used, pss, expected):
    one = reading(used, pss=pss)
    assert expected in line(one, peaks_of(one), Thresholds(), "12:00:00")


def test_old_figure_has_its_age_in_line_and_screen():
    old = reading(age_s=1.54)
    assert "RAM 2.64 GiB  shared pages once 1.17 GiB 1.5 s ago  peak" in line(old, peaks_of(old), Thresholds(), "0")
    assert re.search(r"shared pages once +1\.17 GiB +1\.5 s ago", drawn(old))
    assert "PSS 1.5 s ago" in drawn(old)
    assert reading_json(old, Thresholds(), "now")["pss_age_s"] == 1.54


def test_line_of_one_process_has_the_kernels_mark_as_its_peak():
    one = reading(processes=1)
    text = line(one, peaks_of(one), Thresholds(), "12:00:00")
    assert text == "12:00:00  RAM 900.0 MiB  peak 950.0 MiB  cgroup v2 8.00 GiB of 16.00 GiB 50 %"
    assert "peak RAM 950.0 MiB (the kernel's mark)" in summary(peaks_of(one), "x", "ended", 1.0)


def test_a_line_of_the_machine_has_its_value_once():
    one = reading(processes=0)
    text = line(one, peaks_of(one, reading(0.75, processes=0)), Thresholds(), "12:00:00")
    assert text == "12:00:00  cgroup v2 8.00 GiB of 16.00 GiB 50 %  peak 12.00 GiB"


def test_a_line_has_every_gpu():
    one = reading(gpus=[WELL, SILENT])
    text = line(one, peaks_of(one), Thresholds(0.8, 0.9), "12:00:00")
    assert "GPU 0 process 3.00 GiB 70.00 GiB of 80.00 GiB 45 % 61 °C power cap thermal slowdown (hardware) WARN" in text
    assert "GPU 1 process – – of – – –" in text


def test_json_has_bytes_nulls_and_reasons():
    found = json.loads(json.dumps(reading_json(reading(gpus=[SILENT]), Thresholds(), "now", None)))
    assert (found["time"], found["level"], found["ram_kind"], found["ram_bytes"]) == ("now", "ok", "RSS", 2700 * MIB)
    assert (found["used_bytes"], found["limit_bytes"], found["source"]) == (8 * GIB, 16 * GIB, "cgroup v2")
    assert found["processes"][0]["pss_bytes"] == 400 * MIB
    assert found["gpus"][0]["process_bytes"] is None
    assert found["gpus"][0]["reasons"]["power_w"] == "GPU is lost too"


def test_the_summary_names_each_peak_and_its_kind():
    peaks = peaks_of(reading(gpus=[WELL]), reading(pss=False))
    text = summary(peaks, "python train.py (PID 7)", "ended", 90.0)
    assert text.startswith("python train.py (PID 7): ended after 1 min 30 s, 2 readings; peak RAM 2.64 GiB ")
    for part in (
        "(at most 3 processes, at the readings); shared pages once 1.17 GiB; ",
        "first process 950.0 MiB",
        "GPU 0 3.00 GiB of the",
    ):
        assert part in text
    found = summary_json(peaks, "ended", 90.0)["summary"]
    assert found["peak_ram_bytes"] == {"PSS": 1200 * MIB, "RSS": 2700 * MIB}
    assert found["peak_gpu_process_bytes"] == {0: 3 * GIB}


def test_a_process_that_ended_at_once_has_no_peak():
    assert summary(Peaks(), "sleep (PID 7)", "ended", 0.1) == "sleep (PID 7): ended before it could be read"
    assert summary_json(Peaks(), "ended", 0.1)["summary"]["peak_used_bytes"] is None
