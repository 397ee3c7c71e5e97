"""What was thrown away because something else disturbed it, and what was kept although it was disturbed."""

from __future__ import annotations

from collections.abc import Sequence

from slr_bench.compare.cells import CellSummary
from slr_bench.record import Record
from slr_bench.report.formats.table import Cell, Column, Row, Section, Table
from slr_bench.report.text.cell_names import coordinates_text
from slr_bench.report.text.words import format_value, plain
from slr_bench.run.interference import CLOCK_JUMP_S, FOREIGN_CPU_SHARE, SWAPPED_BYTES
from slr_bench.units import format_bytes

_LIMITS = (
    f"A run counts as disturbed when others took more than {FOREIGN_CPU_SHARE:.0%} of the cores while steps were "
    f"timed, when {format_bytes(SWAPPED_BYTES)} or more was swapped, when the clock jumped by {CLOCK_JUMP_S:g} s, or "
    "when the GPU throttled or was shared. It is made again, within bounds; what stays disturbed is kept and marked. "
    "Its times are suspect, its traced bytes are not."
)


def discards_section(cells: Sequence[CellSummary], discarded: Sequence[Record]) -> Section:
    """One line on how many, then every discarded attempt and every marked run with its reason."""
    kept = [record for cell in cells for record in cell.records if record.marks]
    summary = discards_line(discarded, kept)
    if summary is None:
        return Section("discarded", _TITLE, ("Nothing: no run was disturbed.", _LIMITS), (), is_folded=True)
    rows = [_row(cells, record, "thrown away", record.reason or "") for record in discarded]
    rows += [_row(cells, record, "kept, marked", "; ".join(record.marks)) for record in kept]
    titles = (Column("Workload"), Column("Arm"), Column("Setting"), Column("Run"), Column("What became of it"))
    columns = (*titles, Column("Its step time", numeric=True), Column("Why"))
    return Section("discarded", _TITLE, (summary, _LIMITS), (Table("Disturbed runs", columns, tuple(rows)),))


_TITLE = "What was thrown away, and why"


def discards_line(discarded: Sequence[Record], kept: Sequence[Record]) -> str | None:
    """How many runs were disturbed and made again, and kept with a mark; None where no run was disturbed."""
    parts = []
    if discarded:
        parts.append(f"{len(discarded)} {'run was' if len(discarded) == 1 else 'runs were'} disturbed and made again")
    if kept:
        parts.append(f"{len(kept)} disturbed {'run is' if len(kept) == 1 else 'runs are'} kept with a mark")
    return "; ".join(parts) + "." if parts else None


def _row(cells: Sequence[CellSummary], record: Record, fate: str, why: str) -> Row:
    entry = next((cell for cell in cells if cell.entry.cell_id == record.cell_id), None)
    arm, setting = (plain(entry.entry.arm, 40), coordinates_text(entry)) if entry else ("–", plain(record.cell_id, 40))
    step_s = record.value("step_time_s")
    texts = (plain(record.workload, 40), arm, setting, f"{record.side}{record.repeat}", fate)
    time = Cell(format_value(step_s, "s"), sort=step_s)
    return Row((*(Cell(text) for text in texts), time, Cell(plain(why))))
