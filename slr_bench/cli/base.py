"""What the commands share: the application, options, how one ends."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from slr_bench.errors import InterruptedRunError

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.report.run_report.content import RunContent

DEFAULT_RUN_DIRECTORY = Path("reports/latest")

app = typer.Typer(
    name="slr-bench",
    help="Measure the memory, time and accuracy of training steps; compare arms; report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

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


def public_command(arguments: Sequence[str]) -> str:
    """The command as others can give it: what lies below the working directory is named from there, and of every other
    path the last part alone stays. Nobody's home directory is in it.
    """
    from slr_bench.record import without_paths

    words = ["slr-bench", *map(public_word, arguments)]
    return without_paths(shlex.join(words), "{}")


def public_word(word: str) -> str:
    """A word of a command as others can give it."""
    key, equals, value = word.rpartition("=")  # --out=DIR, data.dir=DIR
    if not value.startswith(("/", "~", "..")):
        return word
    expanded = os.path.expanduser(value)  # pathlib's raises where the user is unknown
    path = os.path.normpath(Path.cwd() / expanded)
    is_inside = not expanded.startswith("~") and Path(path).is_relative_to(Path.cwd())
    return key + equals + (os.path.relpath(path) if is_inside else Path(path).name)
