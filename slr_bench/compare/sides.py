"""What a comparison reads: the records of a run directory, as one side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from slr_bench.compare.cells import MEASURED, CellSummary, summarize_cells
from slr_bench.compare.records import find_records
from slr_bench.errors import ConfigError, NoBaselineError, NothingMeasuredError
from slr_bench.record import Outcome, Record
from slr_bench.run.store import Manifest, Pairing, Store
from slr_bench.units import nearest, plain

SideName = Literal["base", "head"]
BROKEN = frozenset({Outcome.CRASH, Outcome.TIMEOUT})
"""Outcomes that say something is wrong with the code, or with the machine."""


@dataclass(frozen=True)
class Side:
    """Cells of one run directory, of both its sides where it has two."""

    name: str
    cells: Sequence[CellSummary]
    problems: Sequence[str] = ()
    """Files that are no readable records."""
    turn: Pairing | None = None
    """The measurement in turn of which the directory is one half."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Arms that this source cannot run, with why."""
        return self.turn.refused if self.turn else {}

    def of(self, side: Literal["a", "b"]) -> list[CellSummary]:
        """The cells of one side of the directory."""
        return [cell for cell in self.cells if cell.side == side]


def read_side(directory: Path, which: SideName, name: str | None = None, arm: str | None = None) -> Side:
    """Read a run directory as base or head, all arms or one.

    Raises:
        ConfigError: it has no such arm.
        NoBaselineError: the base is no run directory, or none of its runs ended ok or out of memory.
        NothingMeasuredError: the head is none, or none of its runs did or crashed: that it crashes is an answer.
    """
    store = Store(directory)
    manifest = _manifest(store, which)
    found = find_records(store)
    records = found.records
    if arm is not None:
        manifest = _of_arm(manifest, arm, which)
    listed = {entry.cell_id for entry in manifest.cells}
    own = [record for record in records if record.cell_id in listed]
    if not any(record.outcome in (MEASURED if which == "base" else MEASURED | BROKEN) for record in own):
        _refuse(store, which, manifest, own, found.unreadable)
    shown = manifest.pairing.name if manifest.pairing else name or directory.name
    cells = summarize_cells(manifest, records, found.unreadable)
    return Side(shown, cells, found.problems, manifest.pairing)


def _manifest(store: Store, which: SideName) -> Manifest:
    try:
        manifest = store.read_manifest()
    except ConfigError as error:  # another schema, or half written; what to do about it is not what a run would do
        reason = str(error).rpartition(";")[0]
        raise _error(which)(f"{reason}; measure it again with this version") from error
    if manifest is None:
        raise _error(which)(
            f"{store.directory} is no run directory: it has no grid.json; give one that `slr-bench run` wrote"
        )
    return manifest


def _of_arm(manifest: Manifest, arm: str, which: SideName) -> Manifest:
    arms = dict.fromkeys(entry.arm for entry in manifest.cells)
    if arm not in arms:
        raise ConfigError(f"--arm: the {which} has no arm {plain(arm)!r}{plain(nearest(arm, arms))}")
    return manifest.model_copy(update={"cells": tuple(entry for entry in manifest.cells if entry.arm == arm)})


def _refuse(
    store: Store, which: SideName, manifest: Manifest, records: Sequence[Record], unreadable: Mapping[str, str]
) -> NoReturn:
    if records:
        ends = sorted({f"{record.outcome}: {plain(record.reason)}" for record in records})
        shown = manifest.pairing.name if manifest.pairing else store.directory
        raise _error(which)(f"no run of the {which} ({shown}) was measured; they ended as {'; '.join(ends[:3])}")
    if unreadable:
        name, why = next(iter(unreadable.items()))
        raise _error(which)(
            f"none of the {len(unreadable)} records in {store.directory} can be read ({name}.json: {plain(why)}); "
            "measure it again with this version"
        )
    raise _error(which)(f"{store.directory} has no record of a run; run its grid first: {plain(manifest.command)}")


def _error(which: SideName) -> type[NoBaselineError] | type[NothingMeasuredError]:
    return NoBaselineError if which == "base" else NothingMeasuredError
