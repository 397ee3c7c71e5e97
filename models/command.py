"""What the commands of the recogniser share: exit codes, one line per error, and the options that many have."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from slr_bench.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_OK, ConfigError, SlrBenchError
from slr_bench.units import warn_in_one_line


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong option in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Report the mistake as the error of a command."""
        raise ConfigError(f"{message}; see --help")


def run_command(work: Callable[[], int | None], interrupted: str | Callable[[], str]) -> int:
    """Run ``work`` and return the exit code of the process: what ``work`` returns (None is 0), or that of its error.

    An error that the user can mend prints one line on stderr. Ctrl-C prints one line, too; it ends with
    ``interrupted``, which says what is left of the work. If the reader of a pipe closes it, nothing is printed.
    """
    warn_in_one_line()
    try:
        code = work() or EXIT_OK
        sys.stdout.flush()
        return code
    except SlrBenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: interrupted; {interrupted if isinstance(interrupted, str) else interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the interpreter fails at its end
        return EXIT_BROKEN_PIPE


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--set A.B=C``, which :func:`slr_bench.files.parse_overrides` reads."""
    text = "change one key of the configuration; repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help=text)


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, ``--config`` and ``--set``, the arguments of ``load_recogniser``."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="F", help="checkpoint.pt of train_efficient_model.py")
    add("--config", type=Path, metavar="C", help="configuration of the checkpoint, if it does not contain its own")
    add_set_option(parser)
