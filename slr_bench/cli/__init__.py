"""The commands: each reads its options, calls one function of :mod:`slr_bench.api`, prints the result and exits.

They must be quick to print their help, so each imports what it needs when it is called.
"""

from __future__ import annotations

import os
import signal
import sys

from slr_bench.cli.base import app
from slr_bench.cli.compare import compare, gate
from slr_bench.cli.look import doctor, report, schema, watch
from slr_bench.cli.predict import calibrate, plan, predict, replay
from slr_bench.cli.run import profile, run
from slr_bench.errors import EXIT_INTERRUPTED, EXIT_OK, SlrBenchError

_EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
"""As if the signal had ended the command, like any other program in a pipe: neither a verdict nor a success."""

for _command in (run, report, compare, gate, profile, predict, plan, calibrate, replay, watch, doctor, schema):
    app.command()(_command)  # --help lists them in this order


def main() -> None:
    """Run a command; its exit code is that of the process. A reader that closes the output's pipe ends it quietly."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if sys.stdout is None:  # the caller closed it
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open to the end
    code = _run()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter fails at its own flush
    sys.exit(code)


def _run() -> int | str | None:
    """Return the exit code: the one place where an error becomes a line and a code."""
    code: int | str | None = EXIT_OK
    try:
        app(standalone_mode=True)
    except SlrBenchError as error:
        sys.stderr.write("".join(f"slr-bench: {line}\n" for line in str(error).splitlines()))
        return error.exit_code
    except BrokenPipeError:
        return _EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except SystemExit as end:  # typer turns Ctrl-C into an exit; typer and rich a broken pipe, with code 1
        if isinstance(end.__context__, BrokenPipeError):
            return _EXIT_BROKEN_PIPE
        code = end.code
    if code == EXIT_INTERRUPTED:
        sys.stderr.write("slr-bench: interrupted\n")
    return code
