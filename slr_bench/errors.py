"""The tree of errors that a user can mend or that the machine causes, with the exit code of each.

The command line catches the root once and prints one line. A message says what is wrong, what was found, and the cure.
"""

from __future__ import annotations

import signal

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_NO_BASELINE = 3
EXIT_NOT_COMPARABLE = 4
EXIT_NOTHING_MEASURED = 5
EXIT_DOES_NOT_FIT = 6
EXIT_CELL_CRASHED = 7
EXIT_INTERNAL_ERROR = 70
"""A mistake of this program (``EX_SOFTWARE`` of sysexits.h). Python's own code, 1, would mean a regression."""
EXIT_IO_ERROR = 74
"""The output or the working directory failed (``EX_IOERR``): a full disk, a directory that is gone."""
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 128 + signal.SIGPIPE
"""The code of a program that the signal ended. It is neither a success nor a verdict of the gate."""


class SlrBenchError(Exception):
    """Root of every error that comes from the user's input or from the machine."""

    exit_code = EXIT_USAGE


class ConfigError(SlrBenchError):
    """A configuration, an option or an output path that cannot work."""


class DataError(SlrBenchError):
    """Data that cannot be used: a directory, a manifest or a file in it."""


class NothingMeasuredError(SlrBenchError):
    """Every cell ended without a measurement, or the run directory holds no measurement."""

    exit_code = EXIT_NOTHING_MEASURED


class CellCrashedError(SlrBenchError):
    """The one cell that a command runs crashed or timed out."""

    exit_code = EXIT_CELL_CRASHED


class NoBaselineError(SlrBenchError):
    """There is no base to compare with: the run directory does not exist, or none of its runs ended ok."""

    exit_code = EXIT_NO_BASELINE


class NotComparableError(SlrBenchError):
    """Two sides have no cell in common."""

    exit_code = EXIT_NOT_COMPARABLE


class InterruptedRunError(SlrBenchError):
    """The user ended a command. The message says which of its work is kept."""

    exit_code = EXIT_INTERRUPTED


class UnsupportedSettingError(SlrBenchError):
    """The setting is meaningful but cannot run on this machine (fp16 without a device for it, CUDA without a GPU)."""


class ProbeUnavailableError(SlrBenchError):
    """A meter cannot read its quantity on this machine; the metric becomes null with this reason."""
