"""What the commands share: the application, common options, output files, and the end of a command."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

import slr_bench
from slr_bench.errors import ConfigError, InterruptedRunError

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.report.run_report.content import RunContent

DEFAULT_RUN_DIRECTORY = Path("reports/latest")

app = typer.Typer(
    name="slr-bench",
    help="Measure the memory, time and accuracy of training steps; compare arms; report.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"slr-bench {slr_bench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the setting, like section.key=4. Repeatable."),
]


AllocConfOption = Annotated[
    str, typer.Option(metavar="ALLOC_CONF", help="Allocator settings, as in PYTORCH_ALLOC_CONF.")
]


def finish(result: dict[str, Any], exit_code: int, as_json: bool) -> NoReturn:
    """End a command: its one JSON object where asked for, and its exit code."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    raise typer.Exit(exit_code)


@contextlib.contextmanager
def interruption_told(kept: str) -> Iterator[None]:
    """Say at a Ctrl-C inside what is kept of the work.

    Raises:
        InterruptedRunError: in its place.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise InterruptedRunError(f"interrupted; {kept}") from interrupt


def make_report(directory: Path, console: Console, content: RunContent | None = None) -> dict[str, str]:
    """Write the report files and print the summary; the files' paths. ``content``: where it was read already."""
    from slr_bench.report.formats.terminal import print_summary
    from slr_bench.report.run_report.content import read_content
    from slr_bench.report.run_report.write import write_content

    content = content or read_content(directory)
    try:
        paths = write_content(content, directory)
    finally:
        print_summary(content.report, console)
    console.print(f"report: {paths.html} and {paths.markdown}", soft_wrap=True)
    return {"html": str(paths.html), "markdown": str(paths.markdown)}


def refuse_lost_outputs(paths: Iterable[Path | None]) -> None:
    """Told before anything is measured.

    Raises:
        ConfigError: an output file could not be written.
    """
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            why = f"there is no directory {path.parent}; make it, or"
        elif path.is_dir():
            why = "Is a directory;"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            why = "Permission denied;"
        else:
            continue
        raise ConfigError(f"cannot write {path}: {why} choose another place")


def remove_outputs(paths: Iterable[Path | None]) -> None:
    """What an earlier run wrote is not taken for this one's answer, however this one ends. Pipes and links stay: what
    is written into them is not theirs to keep.

    Raises:
        ConfigError: a file cannot be removed.
    """
    for path in paths:
        if path is None or path.is_symlink() or not path.is_file():
            continue
        try:
            path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from error


def write_output(path: Path, content: str | bytes) -> None:
    """Write an output file.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from error


def tidied(value: Any) -> Any:
    """JSON values with every text cut and printable: names come from configurations, reasons from whatever broke."""
    from slr_bench.units import plain

    if isinstance(value, Mapping):
        return {plain(key): tidied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [tidied(item) for item in value]
    return plain(value) if isinstance(value, str) else value
