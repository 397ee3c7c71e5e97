"""CPU time and swap as the kernel writes them, from files made by hand, and once from the machine itself."""

import os
import time

import pytest

from slr_bench.execute import machine

STAT = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 1 20 500 7 2 3 4 10 0\ncpu1 30 0 10 600 0 0 0 0 0 0\nintr 5\n"
PROCESS = "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 100 50 30 20 20 0 1 0"


def write(place, **files):
    for name, text in files.items():
        path = place / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return place


def test_busy_time_is_all_time_except_idle_on_the_chosen_cores(tmp_path):
    write(tmp_path, stat=STAT)
    ticks = {0: 10 + 1 + 20 + 2 + 3 + 4, 1: 40}
    assert machine.busy_s(tmp_path, [0]) == pytest.approx(ticks[0] * machine.TICK_S)
    assert machine.busy_s(tmp_path, [0, 1]) == pytest.approx(sum(ticks.values()) * machine.TICK_S)
    assert machine.busy_s(tmp_path, [0, 5]) is None
    assert machine.busy_s(tmp_path / "absent", [0]) is None


def test_own_time_includes_reaped_children_and_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.host, "tree_pids", lambda pid, proc: [7, 8])
    monkeypatch.setattr(machine.time, "process_time", lambda: 0.25)
    write(tmp_path, **{"7__stat": PROCESS})  # 8 has ended
    assert machine.own_s(7, tmp_path) == pytest.approx(200 * machine.TICK_S + 0.25)
    monkeypatch.setattr(machine.host, "tree_pids", lambda pid, proc: [])
    assert machine.own_s(7, tmp_path) is None


def test_swap_is_counted_in_bytes(tmp_path, monkeypatch):
    page = os.sysconf("SC_PAGE_SIZE")
    assert machine.swapped_bytes(write(tmp_path, vmstat="nr_x 1\npswpin 3\npswpout 4\n")) == 7 * page
    assert machine.swapped_bytes(write(tmp_path, vmstat="nr_x 1\n")) is None
    monkeypatch.setattr(machine.host, "tree_pids", lambda pid, proc: [7, 8, 9])
    write(tmp_path, **{"7__status": "VmRSS:\t 9 kB\nVmSwap:\t 12 kB\n", "8__status": "VmSwap:\t 4 kB\n"})
    assert machine.tree_swap_bytes(7, tmp_path) == 16 * 1024
    assert machine.tree_swap_bytes(7, tmp_path / "absent") is None


def test_work_of_this_process_counts_as_own_on_the_real_machine():
    before_busy, before_own = machine.busy_s(), machine.own_s(os.getpid())
    end_s = time.process_time() + 0.1
    while time.process_time() < end_s:
        pass
    assert machine.busy_s() >= before_busy
    assert machine.own_s(os.getpid()) - before_own >= 0.1
    assert machine.swapped_bytes() is not None
