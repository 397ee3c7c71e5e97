"""Advises on settings for this machine: ``python -m models.training.advisor --config C [--symptom oom|ram|slow]``.

Without a symptom it chooses loader processes, chunk size, cache and micro-batch for this machine. With a symptom it
advises on keys that cure it. It prints the reasons, and the training command with the changes.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, get_args

import yaml
from rich.console import Console
from rich.table import Column, Table

from models.command import add_set_option, command_text, run_command
from models.config import Settings, load_settings
from models.training.advice import Advice, Symptom, apply_advice, cure, fit_machine
from models.training.machine import Machine
from slr_bench.errors import ConfigError
from slr_bench.files import parse_overrides
from slr_bench.units import format_bytes

WIDTH_IN_A_PIPE = 140
DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "efficient_training.yml"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(partial(_run, _parser().parse_args(arguments)), "nothing was written")


def _run(options: argparse.Namespace) -> None:
    settings = load_settings(options.config, setting_overrides(options))
    clips = _clips(settings)  # before torch is imported, so that a wrong directory is reported at once
    machine = Machine.current()
    if options.symptom:
        advice = cure(options.symptom, settings, machine, clips)
    else:
        advice = advise(settings, machine, not options.no_measure, shlex.join(setting_words(options, options.set)))
    result = apply_advice(settings, advice)
    show(advice, machine, sys.stdout)
    if options.apply:
        _write(options.apply, result)
    print(_command(options, advice, result))


def advise(settings: Settings, machine: Machine, measure: bool = True, arguments: str = "") -> list[Advice]:
    """Advise what to change before a training on ``machine``; ``measure`` takes real steps to choose the micro-batch.

    ``arguments`` name ``settings`` to this command; the error message repeats them if memory runs out.

    Raises:
        DoesNotFit: not even a step of two clips fits.
        DataError: the data directory cannot be used.
    """
    need = None
    if measure:
        import torch

        from models.training.out_of_memory import explain_out_of_memory
        from models.training.step_need import measure_step_need

        training = settings.training
        may_halve = not training.dynamic_batch_size and not training.optimizer_in_backward
        with explain_out_of_memory(lambda: "a step of two clips", may_halve, arguments):
            need = measure_step_need(settings, torch.device("cuda" if machine.has_gpu else "cpu"))
    return fit_machine(settings, machine, _clips(settings), need)


def show(advice: Sequence[Advice], machine: Machine, file: IO[str]) -> None:
    """Print the machine in a line and the changes in a table."""
    console = Console(file=file, width=None if file.isatty() else WIDTH_IN_A_PIPE)
    gpu = f"{machine.gpu_name}, {format_bytes(machine.gpu_free_bytes)} free" if machine.has_gpu else "no GPU"
    ram = f"{format_bytes(machine.ram_free_bytes)} of {format_bytes(machine.ram_limit_bytes)} RAM free"
    console.print(f"{machine.cores} cores, {ram}, {gpu}", highlight=False, markup=False)
    if not advice:
        console.print("nothing to change")
        return
    table = Table(Column("key", overflow="fold"), "now", "advised", "why", box=None)
    for item in advice:
        table.add_row(item.key, yaml_text(item.now), yaml_text(item.value), item.why)
    console.print(table, highlight=False)


def yaml_text(value: Any) -> str:
    """Format a value for ``--set`` or a configuration."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.training.advisor", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="C", default=DEFAULT_CONFIG, help="configuration file")
    add("--data-dir", metavar="D", help="data directory; sets data.dir")
    add("--num-classes", type=int, metavar="N", help="sign classes; sets model.num_classes")
    add_set_option(parser)
    add("--symptom", choices=get_args(Symptom), help="out of memory, high RAM use, or slow training")
    add("--no-measure", action="store_true", help="take no real steps; keep the micro-batch")
    add("--apply", type=Path, metavar="OUT.yml", help="write the advised configuration")
    return parser


def setting_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Return the dotted keys that the options change in the configuration; the trainer has the same options."""
    overrides = parse_overrides(options.set)
    if options.data_dir is not None:
        overrides["data.dir"] = options.data_dir
    if options.num_classes is not None:
        overrides["model.num_classes"] = options.num_classes
    return overrides


def _clips(settings: Settings) -> int | None:
    """Return the clips of an epoch, training and validation; None without data."""
    if settings.data.dir is None:
        return None
    from models.data.wlasl import load_manifest

    manifest = load_manifest(settings.data.dir, settings.model.num_classes)
    return len(manifest.clips["train"]) + len(manifest.clips["val"])


def _write(path: Path, settings: Settings) -> None:
    try:
        path.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"--apply {path}: cannot be written: {error.strerror}; choose another path") from error


def _command(options: argparse.Namespace, advice: Sequence[Advice], result: Settings) -> str:
    if options.apply:
        words = ["--config", str(options.apply)]
    else:
        changed = {item.key for item in advice}
        kept = [text for text in options.set if text.partition("=")[0] not in changed]
        words = setting_words(options, kept + [f"{item.key}={yaml_text(item.value)}" for item in advice])
    if result.data.dir is None:  # a placeholder for the user
        words += ["--data-dir", "DIR"]
    return command_text("train_efficient_model.py", *words)


def setting_words(options: argparse.Namespace, pairs: Sequence[str]) -> list[str]:
    """Return the arguments that name the setting, ``pairs`` with ``--set``; the trainer takes the same arguments."""
    words = [] if options.config == DEFAULT_CONFIG else ["--config", str(options.config)]
    if options.data_dir is not None:
        words += ["--data-dir", options.data_dir]
    if options.num_classes is not None:
        words += ["--num-classes", str(options.num_classes)]
    return words + [word for pair in pairs for word in ("--set", pair)]


if __name__ == "__main__":
    sys.exit(main())
