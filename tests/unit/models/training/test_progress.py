"""The trainer's memory panel, which is drawn only on a terminal, and the notes of a training."""

import io
import logging

import pytest
from rich.console import Console

from models.training.pace import TrainingSize
from models.training.progress import PANEL_PERIOD_S, MemoryPanel, TrainingDisplay
from slr_bench.probes.host import HostMemory
from slr_bench.probes.live import LiveReader
from slr_bench.probes.tree import ProcessMemory
from slr_bench.units import MIB

SIZE = TrainingSize(epochs=3, steps_per_epoch=4, clips=30, val_clips=9)
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
    with TrainingDisplay(console, SIZE, 0, panel) as display:
        display.step(0.5, 1.0, 0.1, 2.0, memory)
    return console.file.getvalue()


def test_panel_is_drawn_only_on_a_terminal_with_memory_tracking():
    assert "RAM of 2 processes 200.0 MiB" in screen_text(True, MEMORY)
    assert "RAM of" not in screen_text(False, MEMORY)
    assert "RAM of" not in screen_text(True, None)


def test_layer_logs_are_printed_only_while_training():
    console = Console(file=io.StringIO(), width=200)
    log = logging.getLogger("models.layers.attention")
    with TrainingDisplay(console, SIZE, 0):
        log.info("attention: auto chose %s", "dense for cpu")
    log.info("attention: auto chose %s", "nothing")
    assert console.file.getvalue() == "attention: auto chose dense for cpu\n"


def screen_after(is_terminal, steps_s, steps_done=0, width=160, when_slow=None, now=None):
    """Return the output of a display after steps that took ``steps_s``; micro-batch 2 of 3 of the next one runs."""
    now = now or [0.0]
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal)
    panel = make_panel([100] * 9, [0.0])
    with TrainingDisplay(console, SIZE, steps_done, panel, when_slow, lambda: now[0]) as display:
        for step_s in steps_s:
            now[0] += step_s
            display.step(step_s, 1.25, 0.1, 2.0, None)
        display.micro_batch(2, 3)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_terminal_labels_epoch_step_micro_batch_and_remaining_time(width):
    """Ten more steps of 6 s each, and validation of 9 clips per 30, each a third of a step's clip."""
    text = screen_after(True, [6.0] * 2, steps_done=0, width=width)
    assert "epoch 1/3  step 3/4  micro-batch 2/3 " in text
    assert "66 s remaining" in text
    assert "step 1/4" in screen_after(True, [6.0], steps_done=7, width=width)


def test_pipe_gets_the_time_of_a_step_once_and_no_escape_codes():
    text = screen_after(False, [9.0, 1.0, 1.0, 1.0])
    assert text == "a step takes 9.0 s here: about 119 s for 3 epochs of 4 steps\n"


def test_pipe_gets_at_most_one_line_of_progress_per_minute():
    lines = screen_after(False, [50.0] * 9).splitlines()
    assert lines[0].startswith("a step takes 50 s here")
    assert lines[1] == "at epoch 1/3  step 2/4: loss 1.250, about 9.2 min remaining"
    assert len(lines) == 1 + 4
    assert "remaining" not in screen_after(True, [50.0] * 9).partition("a step takes")[0].partition("at epoch")[2]


@pytest.mark.parametrize(("step_s", "is_told"), [(3200.0, False), (3400.0, True)])
def test_advice_for_a_slow_machine_is_printed_from_half_a_day_on(step_s, is_told):
    """Twelve steps with validation take 13.2 times as long as one step."""
    text = screen_after(False, [step_s], when_slow="on this machine try: python ...")
    assert ("on this machine try: python ..." in text.splitlines()) is is_told


def test_validation_names_its_epoch():
    console = Console(file=io.StringIO(), width=160, force_terminal=True)
    with TrainingDisplay(console, SIZE, 4, make_panel([100] * 9, [0.0])) as display:
        display.validation()
    assert "epoch 1/3  validating" in console.file.getvalue()
