"""Shared parts of the commands: the application and its exit codes, common options, and output files."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

import slr_bench
from slr_bench.errors import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERNAL_ERROR,
    EXIT_INTERRUPTED,
    EXIT_IO_ERROR,
    EXIT_OK,
    ConfigError,
    InterruptedRunError,
    SlrBenchError,
)
from slr_bench.startup import handled_signals
from slr_bench.units import plain, without_controls

if TYPE_CHECKING:
    from rich.console import Console

    from slr_bench.report.run_report.content import RunContent

_PROGRESS_PERIOD_S: Final = 5.0
"""Shortest time between two lines of progress in a file or a pipe."""

app = typer.Typer(
    name="slr-bench",
    help="Measure the memory, time and accuracy of training steps; compare arms; report.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        typer.echo(f"slr-bench {slr_bench.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run a command and exit with its code. If the reader of a pipe closes it, the command ends without a message."""
    if sys.stdout is None:  # the caller closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open to the end
    with handled_signals():
        code = _run()
    try:
        sys.stdout.flush()
    except OSError as error:
        code = code if isinstance(error, BrokenPipeError) else _explain_system_error(error)
        # Otherwise the interpreter fails when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run() -> int | str | None:
    """Run a command and return its exit code. An error becomes one line on stderr, and a code."""
    code: int | str | None = EXIT_OK
    try:
        app(standalone_mode=True)
    except SlrBenchError as error:
        sys.stderr.write("".join(f"slr-bench: {without_controls(line)}\n" for line in str(error).splitlines()))
        return error.exit_code
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except OSError as error:
        return _explain_system_error(error)
    except Exception:  # noqa: BLE001 - the last frame of the program: no error may end with the code of a regression
        sys.excepthook(*sys.exc_info())
        sys.stderr.write("slr-bench: this is a mistake of slr-bench; please report it with the lines above\n")
        return EXIT_INTERNAL_ERROR
    except SystemExit as end:  # typer exits at Ctrl-C; typer and rich exit with code 1 at a broken pipe
        if isinstance(end.__context__, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        code = end.code
    if code == EXIT_INTERRUPTED:
        sys.stderr.write("slr-bench: interrupted\n")
    return code


def _explain_system_error(error: OSError) -> int:
    """Print one line for an error of the system that no command has explained; return the exit code."""
    try:
        os.getcwd()
        what = f"{error.filename or 'the output'}: {error.strerror}; free space, or choose another place"
    except OSError:
        what = "the working directory is gone; change to another"
    sys.stderr.write(f"slr-bench: {without_controls(what)}\n")
    return EXIT_IO_ERROR


ConfigArgument = Annotated[Path, typer.Argument(help="Grid file, or a training file (a grid of one cell).")]
ArmOption = Annotated[str | None, typer.Option(help="Arm, if the grid has several.")]
WorkloadOption = Annotated[str | None, typer.Option(help="Workload [default: the grid's first].")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu or cuda, in place of the grid's.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the setting, like section.key=4. Repeatable."),
]

AllocConfOption = Annotated[
    str, typer.Option(metavar="ALLOC_CONF", help="Allocator settings, as in PYTORCH_ALLOC_CONF.")
]


def open_console(*, stderr: bool = False, soft_wrap: bool = False) -> Console:
    """Return a console that prints foreign text without escape, control and direction characters.

    Names of arms, settings and processes come from files and from other people's programs.
    """
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment

    class CleanConsole(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else without_controls(text), style, control)

    return CleanConsole(stderr=stderr, soft_wrap=soft_wrap)


@contextlib.contextmanager
def show_progress(first: str) -> Iterator[Callable[[str], None]]:
    """Show on stderr what a command does: in a line of its own on a terminal, else as a new line every few seconds."""
    console = open_console(stderr=True)
    if console.is_terminal:
        with console.status(first) as status:
            yield status.update
        return
    last_s = time.monotonic()

    def show(text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= _PROGRESS_PERIOD_S:
            last_s = time.monotonic()
            console.print(text, soft_wrap=True, markup=False, highlight=False)

    yield show


def finish(result: Mapping[str, Any], exit_code: int, as_json: bool) -> NoReturn:
    """Print the JSON object of a command if it was requested, and exit."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    raise typer.Exit(exit_code)


@contextlib.contextmanager
def explain_interruption(kept: str) -> Iterator[None]:
    """Turn a Ctrl-C into an error whose message says which work is kept.

    Raises:
        InterruptedRunError: The user pressed Ctrl-C.
    """
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise InterruptedRunError(f"interrupted; {kept}") from interrupt


def make_report(directory: Path, console: Console, content: RunContent | None = None) -> dict[str, str]:
    """Write the report files, print the summary, and return the paths of the files.

    ``content`` is the content of the run directory, if it has been read already.
    """
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
    """Check the output files before anything is measured.

    Raises:
        ConfigError: An output file could not be written.
    """
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            why = f"there is no directory {path.parent}; create it, or"
        elif path.is_dir():
            why = "Is a directory;"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            why = "Permission denied;"
        else:
            continue
        raise ConfigError(f"cannot write {path}: {why} choose another path")


def remove_outputs(paths: Iterable[Path | None]) -> None:
    """Remove the output files of an earlier command, so that they are not mistaken for the result of this one.

    Pipes and links stay.

    Raises:
        ConfigError: A file cannot be removed.
    """
    for path in paths:
        if path is None or path.is_symlink() or not path.is_file():
            continue
        try:
            path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}; choose another path") from error


def write_output(path: Path, content: str | bytes) -> None:
    """Write an output file.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another path") from error


def printable(value: Any) -> Any:
    """Return JSON values in which every text is short and printable.

    Names come from configurations and reasons from errors, so both may hold any characters.
    """
    if isinstance(value, Mapping):
        return {plain(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [printable(item) for item in value]
    return plain(value) if isinstance(value, str) else value
