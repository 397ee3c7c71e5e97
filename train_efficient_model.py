"""Train the recogniser: ``python train_efficient_model.py --data-dir D --output-dir O --config C --num-classes N``."""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from models.command import (
    OneLineParser,
    add_set_option,
    command_text,
    resume_command,
    run_command,
    uninterrupted,
)
from models.config import Settings, TrainingConfig, load_settings
from models.data.manifest import Manifest
from models.data.wlasl import load_manifest
from models.training import CHECKPOINT_NAME, CONFIG_NAME
from models.training.advice import apply_advice
from models.training.advisor import DEFAULT_CONFIG, advise, setting_overrides, setting_words, show
from models.training.machine import Machine
from models.training.pace import small_setting
from slr_bench.errors import ConfigError
from slr_bench.units import format_count

if TYPE_CHECKING:
    import torch

OUTPUT_DIR = Path("outputs")


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit code. Errors that the user can mend print one line on stderr."""
    options = argparse.Namespace(output_dir=OUTPUT_DIR)
    return run_command(partial(_run, options, arguments), lambda: _left(options.output_dir))


def _run(options: argparse.Namespace, arguments: list[str] | None) -> None:
    _parser().parse_args(arguments, options)
    own = options.output_dir / CONFIG_NAME
    changed_by_auto = options.auto and options.set  # what --auto chose need not go with values of --set
    if options.resume and options.config is DEFAULT_CONFIG and own.exists() and not changed_by_auto:
        options.config = own
    settings = _settings(options)
    assert settings.data.dir is not None  # _settings refuses that
    manifest = load_manifest(settings.data.dir, settings.model.num_classes)
    new = _prepare(options.output_dir, options.resume)
    weights = [] if options.weights is None else [f"model.weights={options.weights}"]
    words = shlex.join(setting_words(options, [*options.set, *weights]))
    with _locked(options.output_dir), _removed_without_checkpoint(new):
        print(f"training on {_data_text(settings, manifest)}; loading torch ...", file=sys.stderr, flush=True)
        if options.auto:
            settings = _fitted(settings, options.output_dir, options.resume, words)
        _train(settings, manifest, options, words)
    print(_next_step(options.output_dir / CHECKPOINT_NAME, manifest), file=sys.stderr)


def _data_text(settings: Settings, manifest: Manifest) -> str:
    train, val = (format_count(len(manifest.clips[split]), "clip") for split in ("train", "val"))
    return f"{train} of {settings.model.num_classes} classes, validating on {val}, from {settings.data.dir}"


def _next_step(checkpoint: Path, manifest: Manifest) -> str:
    split = "test" if manifest.clips["test"] else "val"
    command = command_text("models.evaluate", "--checkpoint", str(checkpoint), "--split", split)
    return f"the trained network is in {checkpoint}; evaluate it with: {command}"


def _left(output_dir: Path) -> str:
    """Return what an interruption leaves."""
    checkpoint = output_dir / CHECKPOINT_NAME
    if not checkpoint.exists():
        return "nothing was saved yet"
    return f"{checkpoint} is unchanged, continue with: {resume_command(output_dir)}"


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(
        description="Train the memory-efficient sign language recogniser.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data-dir", metavar="D", help="data directory, see docs/your_videos.md; sets data.dir")
    add(
        "--output-dir",
        type=Path,
        metavar="O",
        default=OUTPUT_DIR,
        help="directory for checkpoint, metrics and configuration",
    )
    text = "configuration file; with --resume that of the output directory"
    add("--config", type=Path, metavar="C", default=DEFAULT_CONFIG, help=text)
    add("--num-classes", type=int, metavar="N", help="number of sign classes; sets model.num_classes")
    add_set_option(parser)
    add("--weights", metavar="F", help="file of weights to start from; sets model.weights")
    add("--auto", action="store_true", help="first choose workers, cache and micro-batch for this machine")
    add("--resume", action="store_true", help="continue from the checkpoint in the output directory")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    overrides = setting_overrides(options)
    if options.weights is not None:
        overrides["model.weights"] = options.weights
    settings = load_settings(options.config, overrides)
    if settings.data.dir is None:
        raise ConfigError(
            "no data directory: pass --data-dir DIR, or make one with "
            + command_text("models.data.synthetic", "--out", "DIR", "--num-classes", "20")
        )
    if not settings.data.dir.is_dir():
        raise ConfigError(f"data directory {settings.data.dir} does not exist or is a file; check --data-dir")
    return settings


def _prepare(output_dir: Path, resume: bool) -> list[Path]:
    """Check before the work that results can be saved; return the directories that are new, the innermost first."""
    if (output_dir / CHECKPOINT_NAME).exists() and not resume:
        raise ConfigError(
            f"{output_dir} holds the {CHECKPOINT_NAME} of an earlier training; add --resume or choose another directory"
        )
    if resume and not (output_dir / CHECKPOINT_NAME).exists():
        raise ConfigError(
            f"{output_dir} holds no {CHECKPOINT_NAME} to continue from; check --output-dir, "
            "or leave out --resume to start anew"
        )
    new = [directory for directory in (output_dir, *output_dir.parents) if not directory.exists()]
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise ConfigError(f"output directory {output_dir} cannot be used: {error.strerror}; choose another") from error
    return new


@contextmanager
def _removed_without_checkpoint(new: list[Path]) -> Iterator[None]:
    """Leave no new directory if the training ends before its first checkpoint."""
    try:
        yield
    finally:
        if new and not (new[0] / CHECKPOINT_NAME).exists():
            (new[0] / CONFIG_NAME).unlink(missing_ok=True)
            with suppress(OSError):  # it holds a file that this training did not write
                for directory in new:
                    directory.rmdir()


@contextmanager
def _locked(output_dir: Path) -> Iterator[None]:
    """Keep other trainings out of the directory while this one runs."""
    descriptor = os.open(output_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"another training is writing to {output_dir}; choose another directory, or wait until it ends"
        ) from None
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(descriptor)


def _fitted(settings: Settings, output_dir: Path, resume: bool, words: str) -> Settings:
    """Return the setting for this machine. A resumed training keeps the batches that it started with."""
    if resume and (output_dir / CONFIG_NAME).exists():
        before = load_settings(output_dir / CONFIG_NAME).training
        batches = {"batch_size": before.batch_size, "gradient_accumulation_steps": before.gradient_accumulation_steps}
        training = settings.training.model_copy(update=batches)
        settings = settings.model_copy(update={"training": training})
    machine = Machine.current()
    advice = advise(settings, machine, measure=not resume, arguments=words)
    show(advice, machine, sys.stderr)
    return apply_advice(settings, advice)


def _when_slow(settings: Settings, options: argparse.Namespace) -> str:
    """Return what to do if this setting would take half a day or more on a CPU."""
    line = "this configuration is meant for a GPU"
    small = small_setting(settings)
    if small is None:
        return line
    changed = {pair.partition("=")[0] for pair in small}
    kept = [pair for pair in options.set if pair.partition("=")[0] not in changed]
    words = [*setting_words(options, [*kept, *small]), "--output-dir", f"{options.output_dir}-small"]
    return f"{line}; on this machine try: {command_text('train_efficient_model.py', *words)}"


def _device_text(device: torch.device, training: TrainingConfig, clips: int) -> str:
    import torch

    from models.training.optimization import steps_per_epoch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    cores = "" if device.type == "cuda" else f" with {format_count(torch.get_num_threads(), 'thread')}"
    steps = steps_per_epoch(clips, training)
    return (
        f"on {name}{cores}: {format_count(training.epochs, 'epoch')} of {format_count(steps, 'step')}, "
        f"{format_count(training.effective_batch, 'clip')} per step in {training.precision}"
    )


def _train(settings: Settings, manifest: Manifest, options: argparse.Namespace, words: str) -> None:
    # Imported here, so that an error in the configuration is reported before torch is imported, which takes seconds.
    import torch

    from models.data.loading.clips import build_loaders
    from models.layers.placement import default_device
    from models.networks.batch_norm import refuse_norms_over_one_value
    from models.networks.efficient import build_recogniser
    from models.training.efficient_trainer import build_trainer
    from models.training.loaders import Splits, with_stored_features
    from models.training.optimization import steps_per_epoch
    from models.training.out_of_memory import explain_out_of_memory

    loaders = build_loaders(settings, manifest)
    for notice in manifest.notices:
        check = command_text("models.data.wlasl", "check", str(settings.data.dir))
        print(f"{notice}; list all: {check}", file=sys.stderr)
    refuse_norms_over_one_value(settings, len(loaders.train.indices))
    device = default_device()
    print(_device_text(device, settings.training, len(loaders.train.indices)), file=sys.stderr, flush=True)
    torch.manual_seed(settings.training.seed)
    total_steps = settings.training.epochs * steps_per_epoch(len(loaders.train.indices), settings.training)
    try:
        with explain_out_of_memory(lambda: "the network", may_halve=False, advisor_arguments=words):
            model = build_recogniser(settings.model, settings.training.recompute, manifest.glosses).to(device)
            loaders = with_stored_features(loaders, model, settings, device)
            trainer = build_trainer(
                model, settings.training, device, total_steps, Splits(loaders.train, loaders.val),
                settings, manifest.fingerprint, manifest.glosses,
            )  # fmt: skip
        micro_batches = trainer.micro_batches
        with explain_out_of_memory(micro_batches.description, micro_batches.halving_could_help, words):
            when_slow = _when_slow(settings, options) if device.type == "cpu" else None
            trainer.fit(options.output_dir, options.resume, when_slow=when_slow)
            for remark in loaders.remarks:
                print(remark, file=sys.stderr)
    finally:
        with uninterrupted():
            loaders.close()


if __name__ == "__main__":
    exit_code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # everything is said and saved; only the interpreter has to end
    sys.exit(exit_code)
