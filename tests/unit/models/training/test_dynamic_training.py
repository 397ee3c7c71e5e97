"""Trainings that run out of memory at a size set by the test: their micro-batches, clips and weights."""

import gc
import io
import json
import signal
from collections import Counter

import pytest
import torch
from rich.console import Console
from tiny import NoPeaks, TinyLoader, TinyNet, fake_tracker, interrupt_after, tiny_config, tiny_trainer

from models.training.efficient_trainer import TrainingInterrupted
from models.training.optimization import steps_per_epoch

CLIPS = 22
"""Clips are loaded eight at a time, two batches per step, so windows have 16 and 6 clips."""


@pytest.fixture(autouse=True, scope="module")
def light_collector():
    """Keep what pytest imported out of the collection after each failed attempt, which would take 0.7 s."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


class Memory:
    """Memory for ``room`` clips per forward pass; more clips fail like a real allocation."""

    def __init__(self, room=1000, in_backward=False):
        self.room, self.in_backward, self.sizes = room, in_backward, []

    def watch(self, trainer):
        trainer.stepper.model.head.register_forward_hook(self._forward)
        trainer.micro_batches.peaks = NoPeaks()
        return trainer

    def _forward(self, module, inputs, out):
        if not module.training:
            return
        self.sizes.append(len(out))
        if len(out) > self.room:
            if not self.in_backward:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")
            out.register_hook(lambda gradient: torch.empty(2**50, dtype=torch.uint8))


def trainer(seed=0, norm=True, dropout=0.3, loader=None, **changes):
    torch.manual_seed(seed)
    config = tiny_config(**{"batch_size": 8, "dynamic_batch_size": True} | changes)
    total_steps = config.epochs * steps_per_epoch(CLIPS, config)
    train, val = loader or TinyLoader(CLIPS, 8), TinyLoader(6, 8, shuffle=False)
    return tiny_trainer(config, total_steps, train, val, TinyNet(norm, dropout))


def fit(subject, output_dir=None, resume=False, console=None):
    return subject.fit(output_dir, resume, console or Console(file=io.StringIO(), width=300)).epochs


def events(subject):
    return subject.micro_batches.events


def assert_same_weights(a, b, **tolerance):
    for name, value in a.stepper.model.state_dict().items():
        torch.testing.assert_close(value, b.stepper.model.state_dict()[name], **tolerance or {"rtol": 0, "atol": 0})


def started_at(size, **changes):
    """Return a trainer that uses micro-batches of ``size`` from the start."""
    subject = trainer(**changes)
    subject.micro_batches.micro_batch.size = size
    subject.micro_batches.micro_batch.grow_after_steps = 1000
    return subject


@pytest.mark.parametrize("in_backward", [False, True])
def test_step_after_out_of_memory_equals_one_with_small_micro_batches(in_backward):
    """Random numbers, running statistics, momentum and weights agree bit for bit, with dropout and batch norm."""
    memory = Memory(room=3, in_backward=in_backward)
    subject = memory.watch(trainer())
    history = fit(subject)
    expected = started_at(2)
    assert [r.loss for r in history] == [r.loss for r in fit(expected)]
    assert_same_weights(subject, expected)
    epoch = 8 * [2] + 3 * [2]
    assert memory.sizes == [8, 4, *epoch, *epoch, *epoch]
    assert [event.micro_batch for event in events(subject)] == [4, 2]


def test_gradients_of_a_failed_attempt_are_dropped():
    """The second batch of the first window fails; the gradient of the first batch is dropped with it."""
    memory = Memory(in_backward=True)

    class Shrinking(TinyLoader):
        def batches(self, first=0):
            for number, batch in enumerate(super().batches(first)):
                if first + number == 1:
                    memory.room = 4
                yield batch

    subject = memory.watch(trainer(epochs=1, loader=Shrinking(CLIPS, 8)))
    fit(subject)
    expected = started_at(4, epochs=1)
    fit(expected)
    assert memory.sizes == [8, 8, 4, 4, 4, 4, 3, 3]
    assert_same_weights(subject, expected)


def test_halving_loses_and_repeats_no_clip_and_keeps_the_weights():
    """Without batch norm and dropout the micro-batch changes only rounding."""
    seen = []

    plain, shrunk = trainer(norm=False, dropout=0.0, epochs=1), trainer(norm=False, dropout=0.0, epochs=1)
    step = shrunk.micro_batches.step

    def noting(*arguments):
        fitted = step(*arguments)
        seen.extend(name for ids in fitted.video_ids for name in ids)
        return fitted

    shrunk.micro_batches.step = noting
    fit(Memory(room=1).watch(shrunk))
    fit(plain)
    assert Counter(seen) == Counter(f"v{index}" for index in range(CLIPS))
    assert_same_weights(shrunk, plain, rtol=1e-4, atol=1e-6)


def test_micro_batch_grows_back_and_each_change_is_an_event(tmp_path):
    memory, console = Memory(room=4), Console(file=io.StringIO(), width=300)
    subject = memory.watch(trainer(epochs=4))
    subject.micro_batches.micro_batch.grow_after_steps = 3
    subject.micro_batches.tracker = fake_tracker(lambda: 40)
    fit(subject, tmp_path, console=console)
    epoch = [4, 4, 4, 4, 3, 3]
    # After three good steps 8 is tried, on a last window of 6 clips; the next failure asks for six.
    assert memory.sizes == [8, *epoch, 4, 4, 4, 4, 6, 3, 3, *epoch, *epoch]
    saved = json.loads((tmp_path / "metrics.json").read_text())["events"]
    assert [(event["step"], event["micro_batch"]) for event in saved] == [(0, 4), (3, 8), (3, 4)]
    assert [event["kind"] for event in saved] == ["halved", "grown", "halved"]
    assert [event["used_bytes"] for event in saved] == [None, 4 * 2**30, None]
    assert saved[0]["text"] == (
        "out of memory: micro-batch 8 -> 4 clips, 4 of them per step; effective batch 16 as before, "
        "batch norm averages over 4 clips"
    )
    assert saved[1]["text"].startswith("room in memory: micro-batch 4 -> 8 clips, 2 of them per step")
    lines = console.file.getvalue().splitlines()
    assert [line for line in lines if "micro-batch" in line] == [event["text"] for event in saved]


def test_micro_batch_does_not_grow_into_full_memory():
    memory = Memory(room=4)
    subject = memory.watch(trainer())
    subject.micro_batches.micro_batch.grow_after_steps = 1
    subject.micro_batches.tracker = fake_tracker(lambda: 40, lambda: 46)  # twice 46 % of the GPU is too much
    fit(subject)
    assert max(memory.sizes[1:]) == 4


@pytest.mark.parametrize("changes", [{}, {"dynamic_batch_size": False}])
def test_out_of_memory_is_raised_if_the_micro_batch_cannot_or_may_not_shrink(changes):
    memory = Memory(room=0)
    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        fit(memory.watch(trainer(**changes)))
    assert memory.sizes == ([8, 4, 2, 1] if not changes else [8])


def test_out_of_memory_in_the_update_is_not_repeated():
    """Some of the weights may have moved already."""
    subject = trainer()
    subject.stepper.optimizer.step = lambda *_: torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fit(subject)
    assert events(subject) == []


def test_validation_that_does_not_fit_is_halved_too():
    subject, expected = trainer(norm=False), started_at(4, norm=False)
    sizes = []

    def look(module, inputs, out):
        if not module.training:
            sizes.append(len(out))
            if len(out) > 4:
                raise MemoryError

    subject.stepper.model.head.register_forward_hook(look)
    history = fit(subject)
    assert sizes == [6, 3, 3, 3, 3, 3, 3]
    assert events(subject)[0].text.startswith("out of memory in validation: micro-batch 8 -> 4")
    assert [r.val_top1 for r in history][:1] == [r.val_top1 for r in fit(expected)][:1]


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_resume_is_exact_with_a_micro_batch_that_shrank(tmp_path, steps):
    whole = Memory(room=4).watch(trainer())
    history = fit(whole)
    with pytest.raises(TrainingInterrupted):
        fit(interrupt_after(Memory(room=4).watch(trainer()), steps + 1), tmp_path)  # the failed attempt is a call, too
    memory = Memory(room=4)
    resumed = memory.watch(trainer(seed=99))
    assert [r.loss for r in fit(resumed, tmp_path, resume=True)] == [r.loss for r in history]
    assert_same_weights(resumed, whole)
    assert 8 not in memory.sizes
    assert events(resumed) == events(whole)


class Shedding(TinyLoader):
    """A loader that can give back a cache and two processes."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.left, self.loaded_from = {"cache": 1, "prefetch": 0, "workers": 1}, []

    def shed(self, what):
        if not self.left[what]:
            return None
        self.left[what] -= 1
        return f"less {what}"

    def batches(self, first=0):
        self.loaded_from.append(first)
        return super().batches(first)


def test_full_memory_without_dynamic_batch_size_never_changes_the_micro_batch():
    """Other programs may fill the memory; a smaller micro-batch would change what batch norm averages over."""
    percents = [91] * 7 + [99] * 9
    subject = trainer(norm=True, dropout=0.0, epochs=8, dynamic_batch_size=False, loader=Shedding(CLIPS, 8))
    subject.micro_batches.tracker, subject.micro_batches.peaks = fake_tracker(iter(percents).__next__), NoPeaks()
    fit(subject)
    assert {event.micro_batch for event in events(subject)} == {8}
    assert subject.micro_batches.micro_batch.size == 8
    plain = trainer(norm=True, dropout=0.0, epochs=8, dynamic_batch_size=False)
    fit(plain)
    assert_same_weights(subject, plain)


@pytest.mark.parametrize("dynamic", [False, True])
def test_memory_of_other_programs_changes_no_batch_and_no_weight(dynamic):
    """The machine is full from the second step on; this training holds 1 of the 10 GiB."""
    starved = trainer(epochs=4, dynamic_batch_size=dynamic, loader=Shedding(CLIPS, 8))
    percents, console = iter([50] + [99] * 9), Console(file=io.StringIO(), width=300)
    tracker = fake_tracker(percents.__next__, peaks=NoPeaks(), own_gib=1.0)
    starved.micro_batches.tracker, starved.micro_batches.peaks = tracker, NoPeaks()
    losses = [epoch.loss for epoch in fit(starved, console=console)]
    quiet = trainer(epochs=4, dynamic_batch_size=dynamic)
    assert [epoch.loss for epoch in fit(quiet)] == losses
    assert_same_weights(starved, quiet)
    assert events(starved) == []
    assert console.file.getvalue().count("GiB by other programs") == 1


def test_own_full_memory_halves_and_grows_back():
    """At 96 % of its own the micro-batch is halved once; after three readings with room it grows back."""
    percents = [50, 96, *[40] * 6]
    subject = trainer(epochs=4)
    subject.micro_batches.micro_batch.grow_after_steps = 3
    subject.micro_batches.tracker, subject.micro_batches.peaks = fake_tracker(iter(percents).__next__), NoPeaks()
    fit(subject)
    found = [(event.step, event.micro_batch, event.kind) for event in events(subject)]
    assert found == [(2, 4, "halved"), (5, 8, "grown")]
    assert [event.used_bytes for event in events(subject)] == [round(9.6 * 2**30), 4 * 2**30]
    assert [event.own_bytes for event in events(subject)] == [10 * 2**30, None]


def test_full_memory_sheds_then_halves_and_keeps_the_weights():
    """Eight epochs have two steps each; each action is followed by five readings without one."""
    percents = [91] * 7 + [96] * 6 + [50] * 3
    loader = Shedding(CLIPS, 8)
    subject = trainer(norm=False, dropout=0.0, epochs=8, dynamic_batch_size=True, loader=loader)
    subject.micro_batches.tracker, subject.micro_batches.peaks = fake_tracker(iter(percents).__next__), NoPeaks()
    fit(subject)
    assert [(event.step, event.micro_batch, event.text) for event in events(subject)] == [
        (1, 8, "memory warning, RAM is 91 % full: less cache"),
        (7, 8, "memory warning, RAM is 91 % full: less workers"),
        (13, 4, "memory critical, RAM is 96 % full: micro-batch 8 -> 4 clips, 4 of them per step; "
                "effective batch 16 as before"),
    ]  # fmt: skip
    assert loader.loaded_from == [0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 0]
    assert subject.micro_batches.peaks.resets == 3
    plain = trainer(norm=False, dropout=0.0, epochs=8, dynamic_batch_size=False)
    fit(plain)
    assert_same_weights(subject, plain, rtol=1e-4, atol=1e-6)


def test_optimizer_in_backward_only_prints_advice_on_full_memory():
    config = {"optimizer_in_backward": True, "gradient_accumulation_steps": 1, "gradient_clip_norm": None}
    subject = trainer(dynamic_batch_size=False, epochs=1, **config)
    subject.micro_batches.tracker, console = fake_tracker(lambda: 96), Console(file=io.StringIO(), width=300)
    fit(subject, console=console)
    assert (subject.micro_batches.micro_batch.size, events(subject)) == (8, [])
    assert "memory critical: RAM is 96 % full" in console.file.getvalue()


def test_batch_size_of_one_warns_that_nothing_can_be_halved():
    with pytest.warns(UserWarning, match=r"nothing to halve at training\.batch_size: 1; use a larger"):
        trainer(batch_size=1)


def test_signal_during_a_repeated_step_saves_that_step(tmp_path):
    subject = Memory(room=4).watch(trainer())
    with pytest.raises(TrainingInterrupted):
        fit(interrupt_after(subject, 1, signal.SIGINT), tmp_path)
    assert subject.stepper.steps_taken == 1
