"""A replayed snapshot as text."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from slr_bench.predict.allocator.replay import SnapshotReplay
from slr_bench.units import format_bytes


def print_replay(found: SnapshotReplay, console: Console) -> None:
    """What was recorded beside what was simulated, and in a sentence what that says."""
    recording, simulated = found.recording, found.simulated
    table = Table(title=f"{len(recording.events):,} events of device {recording.device}")
    for column in ("", "recorded", "simulated"):
        table.add_column(column, justify="left" if not column else "right")
    reserved = max(recording.reserved_bytes, default=0)
    rows = [
        ("peak requested", "–", format_bytes(simulated.peak_requested_bytes)),
        ("peak allocated", "–", format_bytes(simulated.peak_allocated_bytes)),
        ("peak reserved", format_bytes(reserved), format_bytes(simulated.peak_reserved_bytes)),
        ("most segments", str(max(recording.segments, default=0)), str(max(simulated.segments, default=0))),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(_verdict(found), soft_wrap=True, highlight=False)


def _verdict(found: SnapshotReplay) -> str:
    simulated = found.simulated
    if simulated.out_of_memory is not None:
        number = len(simulated.reserved_bytes)
        return f"Out of memory at event {number + 1:,} of {len(found.recording.events):,}: {simulated.out_of_memory}"
    waste = simulated.fragmentation
    lost = "" if waste is None else f" {waste:.1%} of what was reserved at the peak was never allocated at once."
    if found.capacity_bytes is not None:
        return f"It fits {format_bytes(found.capacity_bytes)}.{lost}"
    if not found.is_as_recorded:
        peaks = max(found.recording.reserved_bytes, default=0), simulated.peak_reserved_bytes
        change = " as much as" if peaks[0] == peaks[1] else f" {format_bytes(abs(peaks[1] - peaks[0]))} "
        change += "" if peaks[0] == peaks[1] else "more than" if peaks[1] > peaks[0] else "less than"
        return f"With these settings it reserves{change} recorded.{lost}"
    if found.first_difference is None:
        return f"The simulation agrees with the recording after every event, to the byte.{lost}"
    return (
        f"The simulation differs from the recording from event {found.first_difference + 1:,} on; other torch rules "
        f"(--torch), streams that wait for each other, or memory pools do that.{lost}"
    )
