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
from slr_bench.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_OK, SlrBenchError
from slr_bench.execute.interrupts import handle_signals

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
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise the interpreter fails when it flushes
    sys.exit(code)


def _run() -> int | str | None:
    """Run a command and return its exit code. An error becomes one line on stderr, and a code."""
    code: int | str | None = EXIT_OK
    try:
        app(standalone_mode=True)
    except SlrBenchError as error:
        sys.stderr.write("".join(f"slr-bench: {line}\n" for line in str(error).splitlines()))
        return error.exit_code
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except SystemExit as end:  # typer exits at Ctrl-C; typer and rich exit with code 1 at a broken pipe
        if isinstance(end.__context__, BrokenPipeError):
            return EXIT_BROKEN_PIPE
        code = end.code
    if code == EXIT_INTERRUPTED:
        sys.stderr.write("slr-bench: interrupted\n")
    return code
