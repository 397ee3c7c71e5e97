"""The tree of errors that a user or the machine can mend, and the exit code of each.

The command line catches the root once and prints one line. A message says what is wrong, what was found, and the cure.
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_REGRESSION = 1
EXIT_USAGE = 2
EXIT_NO_BASELINE = 3
EXIT_NOT_COMPARABLE = 4
EXIT_NOTHING_MEASURED = 5
EXIT_DOES_NOT_FIT = 6
EXIT_CELL_CRASHED = 7
EXIT_INTERRUPTED = 130


class SlrBenchError(Exception):
    """Root of every error that is the user's or the machine's to mend."""

    exit_code = EXIT_USAGE


class ConfigError(SlrBenchError):
    """A configuration, an option or an output place that cannot work."""


class DataError(SlrBenchError):
    """Data that cannot be used: a directory, a manifest or a file in it."""


class NothingMeasuredError(SlrBenchError):
    """Every cell ended without a measurement, or the run directory holds none."""

    exit_code = EXIT_NOTHING_MEASURED


class CellCrashedError(SlrBenchError):
    """The one cell that was asked for crashed or timed out."""

    exit_code = EXIT_CELL_CRASHED


class NoBaselineError(SlrBenchError):
    """There is nothing to compare with: no such run directory, or none of its runs ended ok."""

    exit_code = EXIT_NO_BASELINE


class NotComparableError(SlrBenchError):
    """Two sides that have no cell in common."""

    exit_code = EXIT_NOT_COMPARABLE


class InterruptedRunError(SlrBenchError):
    """The user ended a command; what is kept of its work the message says."""

    exit_code = EXIT_INTERRUPTED


class UnsupportedSettingError(SlrBenchError):
    """The setting is meaningful but cannot run on this machine (fp16 without a device for it, CUDA without a GPU)."""


class ProbeUnavailableError(SlrBenchError):
    """A meter cannot read its quantity here; the metric becomes null with this reason."""
