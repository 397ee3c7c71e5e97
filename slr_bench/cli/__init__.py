"""The commands: each reads its options, calls one function of :mod:`slr_bench.api`, prints the result and exits.

Each command imports what it needs when it is called, so that ``--help`` is quick.
"""

from __future__ import annotations

import os
import sys

from slr_bench.cli.base import app
from slr_bench.cli.compare import compare, gate
from slr_bench.cli.look import doctor, report, schema, watch
from slr_bench.cli.predict import calibrate, plan, predict, replay
from slr_bench.cli.run import profile, run
from slr_bench.errors import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERNAL_ERROR,
    EXIT_INTERRUPTED,
    EXIT_IO_ERROR,
    EXIT_OK,
    SlrBenchError,
)
from slr_bench.execute.interrupts import handle_signals
from slr_bench.units import without_controls

for _command in (run, report, compare, gate, profile, predict, plan, calibrate, replay, watch, doctor, schema):
    app.command()(_command)  # --help lists them in this order


def main() -> None:
    """Run a command and exit with its code. If the reader of a pipe closes it, the command ends without a message."""
    handle_signals()
    if sys.stdout is None:  # the caller closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open to the end
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
