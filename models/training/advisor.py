"""Which settings fit this machine: ``python -m models.training.advisor --config C [--symptom oom|ram|slow]``.

Without a symptom it picks loader processes, chunk size, cache and micro-batch for the machine it finds; with one it
turns the troubleshooting advice into keys. It prints why, and the command that does it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, get_args

import yaml
from rich.console import Console
from rich.table import Column, Table

from models.config import Settings, load_settings
from models.training.advice import Advice, Symptom, advised, against, for_machine
from models.training.machine import Machine
from slr_bench.errors import EXIT_OK, ConfigError, SlrBenchError
from slr_bench.files import parse_overrides
from slr_bench.units import format_bytes

WIDTH_IN_A_PIPE = 140
DEFAULT_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "efficient_training.yml"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(options.config, setting_overrides(options))
        machine = Machine.here()
        if options.symptom:
            advice = against(options.symptom, settings, machine, _clips(settings))
        else:
            advice = advise(settings, machine, not options.no_measure, shlex.join(setting_words(options, options.set)))
        result = advised(settings, advice)
        show(advice, machine, sys.stdout)
        if options.apply:
            _write(options.apply, result)
        print(_command(options, advice, result))
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


def advise(settings: Settings, machine: Machine, measure: bool = True, arguments: str = "") -> list[Advice]:
    """What to change before a run on ``machine``. ``measure``: take real steps to choose the micro-batch.

    ``arguments``: what names ``settings`` to this command, for the cure where memory runs out.

    Raises:
        DoesNotFit: not even a step of two clips does.
        DataError: the data directory cannot be used.
    """
    need = None
    if measure:
        import torch

        from models.training.batch_size import out_of_memory_told
        from models.training.step_need import measure_step_need

        training = settings.training
        may_halve = not training.dynamic_batch_size and not training.optimizer_in_backward
        with out_of_memory_told(lambda: "a step of two clips", may_halve, arguments):
            need = measure_step_need(settings, torch.device("cuda" if machine.has_gpu else "cpu"))
    return for_machine(settings, machine, _clips(settings), need)


def show(advice: Sequence[Advice], machine: Machine, file: IO[str]) -> None:
    """The machine in a line, the changes in a table."""
    console = Console(file=file, width=None if file.isatty() else WIDTH_IN_A_PIPE)
    gpu = f"{machine.gpu_name}, {format_bytes(machine.gpu_free_bytes)} free" if machine.has_gpu else "no GPU"
    ram = f"{format_bytes(machine.ram_free_bytes)} of {format_bytes(machine.ram_limit_bytes)} RAM free"
    console.print(f"{machine.cores} cores, {ram}, {gpu}", highlight=False, markup=False)
    if not advice:
        console.print("nothing to change")
        return
    table = Table(Column("key", overflow="fold"), "now", "advised", "why", box=None)
    for one in advice:
        table.add_row(one.key, yaml_text(one.now), yaml_text(one.value), one.why)
    console.print(table, highlight=False)


def yaml_text(value: Any) -> str:
    """A value as ``--set`` and a configuration spell it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.training.advisor", description=(__doc__ or "").split("\n")[0]
    )
    add = parser.add_argument
    add("--config", type=Path, metavar="C", default=DEFAULT_CONFIG, help="configuration file")
    add("--data-dir", metavar="D", help="data in WLASL layout; sets data.dir")
    add("--num-classes", type=int, metavar="N", help="sign classes; sets model.num_classes")
    add("--set", action="append", default=[], metavar="A.B=C", help="change one key of it first; repeatable")
    add("--symptom", choices=get_args(Symptom), help="out of GPU memory, high RAM use, slow training")
    add("--no-measure", action="store_true", help="take no real steps; leave the micro-batch as it is")
    add("--apply", type=Path, metavar="OUT.yml", help="write the advised configuration")
    return parser


def setting_overrides(options: argparse.Namespace) -> dict[str, Any]:
    """Dotted keys that the options lay over the configuration; the trainer's are the same."""
    overrides = parse_overrides(options.set)
    if options.data_dir is not None:
        overrides["data.dir"] = options.data_dir
    if options.num_classes is not None:
        overrides["model.num_classes"] = options.num_classes
    return overrides


def _clips(settings: Settings) -> int | None:
    """Clips of an epoch, training and validation; None without data."""
    if settings.data.dir is None:
        return None
    from models.data.wlasl import load_manifest

    manifest = load_manifest(settings.data.dir, settings.model.num_classes)
    return len(manifest.clips["train"]) + len(manifest.clips["val"])


def _write(path: Path, settings: Settings) -> None:
    try:
        path.write_text(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
    except OSError as error:
        raise ConfigError(f"--apply {path}: cannot be written: {error.strerror}; choose another place") from error


def _command(options: argparse.Namespace, advice: Sequence[Advice], result: Settings) -> str:
    if options.apply:
        words = ["--config", str(options.apply)]
    else:
        changed = {one.key for one in advice}
        kept = [text for text in options.set if text.partition("=")[0] not in changed]
        words = setting_words(options, kept + [f"{one.key}={yaml_text(one.value)}" for one in advice])
    if result.data.dir is None:  # for the user to fill in
        words += ["--data-dir", "DIR"]
    return shlex.join(["python", "train_efficient_model.py", *words])


def setting_words(options: argparse.Namespace, pairs: Sequence[str]) -> list[str]:
    """What names the setting to this command and to the trainer alike: their options, their default are the same.

    ``pairs``: of ``--set``.
    """
    words = [] if options.config == DEFAULT_CONFIG else ["--config", str(options.config)]
    if options.data_dir is not None:
        words += ["--data-dir", options.data_dir]
    if options.num_classes is not None:
        words += ["--num-classes", str(options.num_classes)]
    return words + [word for pair in pairs for word in ("--set", pair)]


if __name__ == "__main__":
    sys.exit(main())
