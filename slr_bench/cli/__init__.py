"""The commands: thin, and quick to say what they can do. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import signal
import sys
from importlib import import_module

from slr_bench.cli.base import app
from slr_bench.errors import EXIT_INTERRUPTED, SlrBenchError

# Each module registers its command; the order is that of --help.
for _command in (
    "run", "report", "compare", "gate", "profile", "predict", "plan", "calibrate", "replay", "watch", "doctor", "schema"
):  # fmt: skip
    import_module(f"slr_bench.cli.{_command}")


def main() -> None:
    """Entry point: the one place where an error becomes a line and an exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(standalone_mode=True)
    except SlrBenchError as error:
        sys.stderr.write("".join(f"slr-bench: {line}\n" for line in str(error).splitlines()))
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:  # typer makes an exit of a Ctrl-C
        if isinstance(end, SystemExit) and end.code != EXIT_INTERRUPTED:
            raise
        sys.stderr.write("slr-bench: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)
