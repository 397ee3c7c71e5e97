"""What the parent checks before any cell starts: its data, and first of all the device. Imports no torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from slr_bench.errors import ConfigError, DataError, UnsupportedSettingError
from slr_bench.grid.cells import Cell

NO_CUDA: Final = "device: cuda, but torch sees no CUDA device; use --device cpu or a machine with one"
_ASK = "import sys, torch; sys.exit(9 * (not torch.cuda.is_available()))"


def prepare(cells: Iterable[Cell], device: str) -> dict[str, dict[str, str]]:
    """Facts of each cell's data by cell id.

    Raises:
        ConfigError, DataError: a cell's data cannot be used.
        UnsupportedSettingError: nor is there the device that was asked for: no data would help.
    """
    try:
        return {cell.cell_id: dict(cell.spec.prepare(cell.settings)) for cell in cells}
    except (ConfigError, DataError):
        # Asking torch takes seconds: only where something is amiss anyway.
        if device == "cuda" and not has_cuda():
            raise UnsupportedSettingError(NO_CUDA) from None
        raise


def has_cuda() -> bool:
    """Whether torch sees a GPU; asked in a process of its own, which takes seconds. True where torch does not load."""
    return subprocess.run([sys.executable, "-c", _ASK], capture_output=True, check=False).returncode != 9
