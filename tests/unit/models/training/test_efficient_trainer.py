"""Whole trainings on a tiny network: exact resume, interruption, divergence, files and screen output."""

import io
import json
import os
import signal
import threading
import weakref
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from tiny import TinyLoader, fake_tracker, interrupt_after, tiny_config, tiny_trainer

from models.training import CHECKPOINT_NAME
from models.training.efficient_trainer import Interruption, TrainingDiverged, TrainingInterrupted
from models.training.optimization import steps_per_epoch
from models.training.progress import TrainingDisplay
from slr_bench.errors import ConfigError, DataError

CLIPS = 18  # micro-batches of 4: windows of 8, 8 and 2


def trainer(seed=0, clips=CLIPS, train=None, **changes):
    torch.manual_seed(seed)
    config = tiny_config(**changes)
    train, val = train or TinyLoader(CLIPS, 4), TinyLoader(6, 4, shuffle=False)
    return tiny_trainer(config, config.epochs * steps_per_epoch(clips, config), train, val)


def quiet():
    return Console(file=io.StringIO())


def fit(subject, output_dir=None, resume=False, console=None):
    return subject.fit(output_dir, resume, console or quiet()).epochs


def same_weights(a, b):
    first, second = a.stepper.model.state_dict(), b.stepper.model.state_dict()
    return all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def uninterrupted():
    subject = trainer()
    return subject, fit(subject)


def untimed(history):
    return [(r.epoch, r.loss, r.train_top1, r.val_top1, r.val_loss) for r in history]


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_interrupted_training_ends_with_the_uninterrupted_weights(uninterrupted, tmp_path, steps):
    """The signal arrives within an epoch (1, 2, 4), after its last step (3), or after the last step of all (9)."""
    with pytest.raises(TrainingInterrupted):
        fit(interrupt_after(trainer(), steps), tmp_path)
    torch.rand(5)  # the second process's random numbers stand elsewhere
    resumed = trainer(seed=99)
    history = fit(resumed, tmp_path, resume=True)
    assert same_weights(resumed, uninterrupted[0])
    assert untimed(history) == untimed(uninterrupted[1])


def test_resume_at_an_epoch_boundary_is_exact(uninterrupted, tmp_path):
    first = trainer()
    plain = first.stepper.evaluate

    def evaluate(batches):
        evaluation = plain(batches)
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluation

    first.stepper.evaluate = evaluate
    with pytest.raises(TrainingInterrupted, match="in epoch 2 of 3"):
        fit(first, tmp_path)
    resumed = trainer(seed=99)
    fit(resumed, tmp_path, resume=True)
    assert same_weights(resumed, uninterrupted[0])


def test_signal_in_validation_ends_it_and_resuming_validates_again(uninterrupted, tmp_path):
    """The rest is skipped, because whoever ends a training may kill it before a long validation is over."""
    first = trainer()
    plain, seen = first.stepper.model.forward, []

    def forward(clips_BTCHW):
        if not first.stepper.model.training:
            seen.append(len(clips_BTCHW))
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(clips_BTCHW)

    first.stepper.model.forward = forward
    with pytest.raises(TrainingInterrupted, match="in epoch 1 of 3"):
        fit(first, tmp_path)
    assert seen == [4]  # of 6
    resumed = trainer(seed=99)
    history = fit(resumed, tmp_path, resume=True)
    assert same_weights(resumed, uninterrupted[0])
    assert untimed(history) == untimed(uninterrupted[1])


def test_resuming_a_finished_training_trains_nothing(uninterrupted, tmp_path):
    finished = trainer()
    history = fit(finished, tmp_path)
    again = trainer(seed=99)
    said = Console(file=io.StringIO(), width=200)
    assert fit(again, tmp_path, resume=True, console=said) == history
    assert "already complete: all 3 epochs are done" in said.file.getvalue()
    assert same_weights(again, uninterrupted[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_set_the_exit_code_and_old_handlers_are_restored(tmp_path, number, code):
    before = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with pytest.raises(TrainingInterrupted, match="--resume") as error:
        fit(interrupt_after(trainer(), 2, number), tmp_path)
    assert error.value.exit_code == code
    assert (tmp_path / CHECKPOINT_NAME).exists()
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == before


def test_message_states_that_nothing_is_saved_without_an_output_directory():
    with pytest.raises(TrainingInterrupted, match="nothing was saved"):
        fit(interrupt_after(trainer(), 1))


def test_metrics_file_holds_every_epoch(uninterrupted, tmp_path):
    fit(trainer(), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["schema"] == 2
    assert metrics["events"] == []
    assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
    last = metrics["epochs"][-1]
    assert last["loss"] == uninterrupted[1][-1].loss
    assert 0 <= last["train_top1"] <= 1
    assert last["clips_per_s"] > 0
    assert last["peak_rss_bytes"] > 2**20
    assert sorted(path.name for path in tmp_path.iterdir()) == [CHECKPOINT_NAME, "metrics.json"]


def test_tiny_network_learns(uninterrupted):
    subject = trainer(epochs=40)  # 12 are enough on one processor and not on another
    history = fit(subject)
    assert history[-1].val_top1 == 1.0
    assert history[-1].loss < history[0].loss


def test_diverged_loss_names_the_clips_and_keeps_the_checkpoint(tmp_path):
    fit(trainer(), tmp_path)
    before = (tmp_path / CHECKPOINT_NAME).read_bytes()
    subject = trainer()
    plain, calls = subject.stepper.model.forward, []

    def poisoned(clips_BTCHW):
        calls.append(1)
        return plain(clips_BTCHW) * (float("nan") if len(calls) == 2 else 1.0)

    subject.stepper.model.forward = poisoned
    loader = TinyLoader(CLIPS, 4)
    second = list(loader)[1].video_ids
    with pytest.raises(TrainingDiverged, match=f"became nan on clips {', '.join(second)}; lower training") as error:
        fit(subject, tmp_path)
    assert error.value.exit_code == 2
    assert (tmp_path / CHECKPOINT_NAME).read_bytes() == before


def test_only_one_micro_batch_is_alive_in_fit():
    alive, seen = [], []

    class Watched(TinyLoader):
        def batches(self, first=0):
            for batch in super().batches(first):
                alive.append(sum(ref() is not None for ref in seen))
                seen.append(weakref.ref(batch))
                hand_over = [batch]
                del batch
                yield hand_over.pop()

    fit(trainer(epochs=2, train=Watched(CLIPS, 4)))
    assert len(alive) == 10
    assert alive == [0] * 10


def test_one_plain_line_per_epoch_without_a_terminal():
    console = quiet()
    fit(trainer(), console=console)
    lines = console.file.getvalue().strip().splitlines()
    assert lines.pop(0).startswith("a step takes ")
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/3  loss ")
    assert all("\x1b" not in line and "val top-1" in line and "clips/s" in line for line in lines)


def test_terminal_shows_loss_rate_speed_and_memory():
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    fit(trainer(enable_memory_tracking=True), console=console)
    shown = console.file.getvalue()
    for word in ("loss", "lr", "clips/s", "RAM", "GiB", "epoch 3/3  done", "0 s remaining"):
        assert word in shown


def test_memory_advice_is_printed_once():
    subject = trainer(enable_memory_tracking=True)
    subject.micro_batches.tracker = fake_tracker(lambda: 92)
    console = quiet()
    fit(subject, console=console)
    assert console.file.getvalue().count("memory warning: RAM is 92 % full") == 1


def test_crashed_training_resumes_from_its_last_epoch_to_the_same_weights(uninterrupted, tmp_path):
    """A crash saves nothing, so the half epoch is trained again."""

    def crash(*_):
        raise KeyError("power cut")

    crashed = trainer()
    plain = crashed.stepper.accumulate
    crashed.stepper.accumulate = lambda *arguments: crash() if crashed.stepper.steps_taken == 5 else plain(*arguments)
    with pytest.raises(KeyError):
        fit(crashed, tmp_path)
    resumed = trainer(seed=99)
    history = fit(resumed, tmp_path, resume=True)
    assert same_weights(resumed, uninterrupted[0])
    assert untimed(history) == untimed(uninterrupted[1])


def test_resuming_does_not_load_used_batches_again(tmp_path):
    requests = []

    class RecordingLoader(TinyLoader):
        def batches(self, first=0):
            requests.append((self.epoch, first))
            return super().batches(first)

    with pytest.raises(TrainingInterrupted):
        fit(interrupt_after(trainer(), 5), tmp_path)
    fit(trainer(train=RecordingLoader(CLIPS, 4)), tmp_path, resume=True)
    assert requests == [(1, 4), (2, 0)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 0.02}, "made with training.learning_rate=0.01, now it is 0.02"),
        ({"batch_size": 2, "gradient_accumulation_steps": 4}, "training.batch_size=4, now it is 2"),
        ({"clips": 30}, "made for 9 optimizer steps, now there are 12"),
    ],
)
def test_resuming_under_other_settings_is_refused(tmp_path, changes, words):
    fit(trainer(), tmp_path)
    other = trainer(seed=5, **changes)
    untouched = trainer(seed=5, **changes)
    with pytest.raises(ConfigError, match=words):
        fit(other, tmp_path, resume=True)
    assert same_weights(other, untouched)


def test_memory_options_may_change_on_resume(tmp_path):
    fit(trainer(), tmp_path)
    assert len(fit(trainer(recompute="none", memory_warning_threshold=0.5), tmp_path, resume=True)) == 3


def test_another_network_is_refused(tmp_path):
    fit(trainer(), tmp_path)
    other = trainer()
    other.stepper.model.head = torch.nn.Linear(8, 5)
    with pytest.raises(ConfigError, match=r"head\.weight is \(3, 8\), expected \(5, 8\)"):
        fit(other, tmp_path, resume=True)


def test_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*checkpoint\.pt: No such file"):
        fit(trainer(), tmp_path, resume=True)


def test_empty_split_is_refused_before_the_first_step():
    empty = SimpleNamespace(indices=())
    with pytest.raises(DataError, match="training split has no clips"):
        fit(trainer(train=empty))
    config = tiny_config()
    subject = tiny_trainer(config, 9, TinyLoader(6, 4), empty)
    with pytest.raises(DataError, match="validation split has no clips"):
        fit(subject)
    assert subject.stepper.steps_taken == 0


def test_first_signal_is_answered_from_another_thread_and_the_second_interrupts():
    """The main thread may be inside a long operator when the signal arrives."""
    answers, answered = [], threading.Event()

    def answer(number):
        answers.append((number, threading.current_thread() is threading.main_thread()))
        answered.set()

    threads = threading.active_count()
    with Interruption(answer) as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert answered.wait(60)
        assert interruption.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert answers == [(signal.SIGINT, False)]
    assert threading.active_count() == threads
    assert signal.set_wakeup_fd(-1) == -1


def test_without_a_signal_nothing_is_answered():
    answers = []
    with Interruption(answers.append) as interruption:
        os.kill(os.getpid(), signal.SIGCHLD)
    assert (answers, interruption.signal_number) == ([], None)


@pytest.mark.parametrize(("is_saved", "then"), [(True, "then saving the checkpoint"), (False, "then stopping")])
def test_answer_says_what_happens_and_how_to_stop_now(tmp_path, is_saved, then):
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(TrainingInterrupted):
        interrupt_after(trainer(), 2, signal.SIGINT).fit(tmp_path if is_saved else None, console=console)
    assert f"finishing the step, {then}; press Ctrl-C again to stop now\n" in console.file.getvalue()


def test_interruption_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    """The second Ctrl-C arrives in the middle of the file of the second epoch."""
    saved, plain = [], torch.save

    def save(content, file):
        saved.append(content["progress"]["epoch"])
        if len(saved) == 2:
            file.write(b"half of it")
            raise KeyboardInterrupt
        plain(content, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(KeyboardInterrupt):
        trainer().fit(tmp_path, console=Console(file=io.StringIO()))
    assert saved == [1, 2]
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["progress"]["epoch"] == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "metrics.json"]


def test_resumed_training_says_where_it_continues(tmp_path):
    with pytest.raises(TrainingInterrupted):
        interrupt_after(trainer(), 2).fit(tmp_path, console=Console(file=io.StringIO()))
    console = Console(file=io.StringIO(), width=200)
    trainer().fit(tmp_path, resume=True, console=console)
    assert console.file.getvalue().startswith("continuing at epoch 1/")


def test_micro_batches_are_numbered_within_their_step(tmp_path):
    numbers = []
    subject = trainer()
    subject.micro_batches.micro_batch.size = 3

    class Numbers(TrainingDisplay):
        def micro_batch(self, number, count):
            numbers.append((number, count))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.training.efficient_trainer.TrainingDisplay", Numbers)
        subject.fit(None, console=Console(file=io.StringIO()))
    starts = [index for index, (number, _) in enumerate(numbers) if number == 1] + [len(numbers)]
    assert len(starts) - 1 == subject.stepper.steps_taken == 9
    for start, end in pairwise(starts):
        assert numbers[start:end] == [(number, end - start) for number in range(1, end - start + 1)]
