"""The trainer's memory panel, which is drawn only on a terminal, and the notes of a training."""

import io
import logging

from rich.console import Console

from models.training.progress import PANEL_PERIOD_S, MemoryPanel, TrainingDisplay
from slr_bench.probes.host import HostMemory
from slr_bench.probes.live import LiveReader
from slr_bench.probes.tree import ProcessMemory
from slr_bench.units import MIB

MEMORY = {"ram_used": 1.0, "ram_total": 4.0, "gpu_available": False}


def make_panel(sizes, now):
    """Return a panel on which processes 7 and 8 hold ``sizes`` MiB each, one size per reading."""
    left = iter(sizes)
    state = {}

    def tree(pid):
        state["size"] = next(left) * MIB
        return [7, 8]

    reader = LiveReader(
        7,
        clock=lambda: now[0],
        read_tree=tree,
        read_one=lambda pid: ProcessMemory(pid, "python", state["size"], None),
        read_pss=lambda pid: state["size"],
        read_host=lambda pid: HostMemory(1, 2, "machine"),
    )
    return MemoryPanel(reader, lambda: now[0])


def test_panel_keeps_the_peak_and_reads_at_most_once_per_period():
    now = [0.0]
    panel = make_panel([100, 300, 200], now)
    panel.update()
    assert panel.line.startswith("RAM of 2 processes 200.0 MiB (RSS), peak 200.0 MiB")
    now[0] = PANEL_PERIOD_S - 0.1
    panel.update()
    assert "200.0 MiB (RSS)" in panel.line
    for _ in range(2):
        now[0] += PANEL_PERIOD_S
        panel.update()
    assert panel.line.startswith("RAM of 2 processes 400.0 MiB (RSS), peak 600.0 MiB")


def screen_text(is_terminal, memory):
    console = Console(file=io.StringIO(), width=80, force_terminal=is_terminal)
    panel = make_panel([100] * 9, [0.0])
    with TrainingDisplay(console, 3, 0, panel) as display:
        display.step(1.0, 0.1, 2.0, memory)
    return console.file.getvalue()


def test_panel_is_drawn_only_on_a_terminal_with_memory_tracking():
    assert "RAM of 2 processes 200.0 MiB" in screen_text(True, MEMORY)
    assert "RAM of" not in screen_text(False, MEMORY)
    assert "RAM of" not in screen_text(True, None)


def test_layer_logs_are_printed_only_while_training():
    console = Console(file=io.StringIO(), width=200)
    log = logging.getLogger("models.layers.attention")
    with TrainingDisplay(console, 3, 0):
        log.info("attention: auto chose %s", "dense for cpu")
    log.info("attention: auto chose %s", "nothing")
    assert console.file.getvalue() == "attention: auto chose dense for cpu\n"
