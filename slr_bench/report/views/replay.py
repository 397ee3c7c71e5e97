"""Show a replayed snapshot in the terminal or as a page: verdict, bytes over time, segments, lines of source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

from slr_bench.predict.allocator.inspection import Inspection, SegmentUse
from slr_bench.predict.allocator.verdict import SnapshotReplay, Verdict
from slr_bench.report.charts.model import Bar, BarChart, BarRow, LegendEntry, Scale, byte_step
from slr_bench.report.formats.table import Cell, Column, Report, Row, Section, Table, Tone, without_empty_columns
from slr_bench.report.formats.terminal import print_table
from slr_bench.units import format_bytes, format_count, plain

if TYPE_CHECKING:
    from slr_bench.report.charts.matplotlib_renderer import Picture

SEGMENTS_DRAWN: Final = 30
SITES_PRINTED: Final = 8
_LAYERS: Final = {"allocated": "arm-0", "fragmented": "arm-2", "cached": "arm-5"}
"""Parts of the reserved memory -> their colours: blocks in use, free memory beside them, and segments without any."""
_STYLES: Final = {Verdict.AGREES: "green", Verdict.DIFFERS: "red", Verdict.DOES_NOT_FIT: "red", Verdict.FITS: "green"}
_LEAST_GAP: Final = 0.003
"""Share of the plot below which a gap between two blocks is not drawn."""


def print_replay(found: SnapshotReplay, inspection: Inspection | None, console: Console) -> None:
    """Print what was recorded beside what was simulated, and the verdict."""
    print_table(_peaks(found), console)
    for table in (_sites(inspection, SITES_PRINTED), _alternatives(found, inspection)) if inspection else ():
        if table.rows:
            print_table(table, console)
    if len(found.others) > 0:
        print_table(_devices(found), console)
    for line in _notes(found):
        console.print(Text(line, style="dim"), soft_wrap=True)
    console.print(Text(verdict_text(found), style=_STYLES.get(found.verdict, "yellow")), soft_wrap=True)


def verdict_text(found: SnapshotReplay) -> str:
    """Return the verdict in one or two sentences."""
    simulated, recording = found.simulated, found.recording
    if found.nothing_reason is not None:
        return f"Nothing to check: {found.nothing_reason}."
    if simulated.out_of_memory is not None:
        number = len(simulated.reserved_bytes)
        return f"Out of memory at event {number + 1:,} of {len(recording.events):,}: {simulated.out_of_memory}"
    waste = simulated.fragmentation
    lost = "" if waste is None else f" {waste:.1%} of the reserved memory was never allocated at the same time."
    if not found.is_as_recorded:
        return f"{_change(found)}{lost}"
    if found.difference is not None:
        one = found.difference
        return (
            f"The simulation differs from the recording at event {one.event + 1:,} (entry {one.entry:,} of the file): "
            f"{one.quantity} {one.recorded} recorded, {one.simulated} simulated. Likely cause: {one.cause}."
        )
    checked = found.addresses
    text = "The simulation agrees with the recording after every event, to the byte: reserved memory, segments"
    if checked.first_difference is None:
        return f"{text}, and the addresses of all {checked.compared:,} allocations.{lost}"
    return (
        f"{text}. Of {checked.compared:,} addresses {checked.equal:,} are equal. They differ from event "
        f"{checked.first_difference + 1:,} on, where the file does not determine them.{lost}"
    )


def _change(found: SnapshotReplay) -> str:
    """Return what other settings or another capacity change."""
    recorded = max(found.recording.reserved_bytes)
    simulated = found.simulated.peak_reserved_bytes
    fits = "" if found.capacity_bytes is None else f"It fits {format_bytes(found.capacity_bytes)}. "
    if found.recording.out_of_memory:
        failed, served = found.recording.out_of_memory, len(found.simulated.served)
        fits += f"Of {format_count(failed, 'request')} that failed when recorded, {served} would be served. "
    if recorded == simulated:
        return f"{fits}With these settings it reserves as much as recorded."
    direction = "more" if simulated > recorded else "less"
    return f"{fits}With these settings it reserves {format_bytes(abs(simulated - recorded))} {direction} than recorded."


def _notes(found: SnapshotReplay) -> Iterator[str]:
    recording = found.recording
    if recording.start:
        blocks = sum(len(segment.blocks) for segment in recording.start)
        yield (
            f"The recording begins with {format_bytes(recording.start_reserved_bytes)} reserved in "
            f"{format_count(len(recording.start), 'segment')}; {format_bytes(recording.start_allocated_bytes)} of it "
            f"are allocated in {format_count(blocks, 'block')}. This state was found by undoing the history."
        )
    if recording.unknown_blocks:
        yield (
            f"The size of {format_count(recording.unknown_blocks, 'block')} of this state is not in the file: "
            "each may be up to 1 MiB larger than its request."
        )
    if recording.problem is not None and recording.allocations:
        yield f"Older entries are left out: {recording.problem}."
    if not found.is_as_recorded and recording.start:
        yield "The segments of the beginning stay as recorded. Other settings change what is requested after it."


def _peaks(found: SnapshotReplay) -> Table:
    recording, simulated = found.recording, found.simulated
    reserved = max(recording.reserved_bytes, default=recording.start_reserved_bytes)
    segments = max(recording.segments, default=len(recording.start)), max(simulated.segments, default=0)
    rows = [
        ("peak requested", "–", format_bytes(simulated.peak_requested_bytes)),
        ("peak allocated", "–", format_bytes(simulated.peak_allocated_bytes)),
        ("peak reserved", format_bytes(reserved), format_bytes(simulated.peak_reserved_bytes)),
        ("most segments", f"{segments[0]:,}", f"{segments[1]:,}" if simulated.segments else f"{segments[0]:,}"),
    ]
    if found.is_as_recorded and found.addresses.compared:
        rows.append(("equal addresses", f"{found.addresses.compared:,}", f"{found.addresses.equal:,}"))
    if recording.out_of_memory:
        failed = recording.out_of_memory - len(simulated.served)
        rows.append(("failed requests", f"{recording.out_of_memory:,}", f"{failed:,}"))
    columns = (Column(""), Column("recorded", True), Column("simulated", True))
    caption = f"Device {recording.device}: {len(recording.events):,} events"
    return Table(caption, columns, tuple(Row(tuple(map(Cell, row))) for row in rows))


def _devices(found: SnapshotReplay) -> Table:
    rows = []
    for one in sorted((found, *found.others), key=lambda one: one.recording.device):
        tone: Tone = "bad" if one.verdict is Verdict.DIFFERS else ""
        texts = str(one.recording.device), f"{len(one.recording.events):,}", f"{one.recording.allocations:,}"
        rows.append(Row((*map(Cell, texts), Cell(one.verdict.value, tone=tone))))
    columns = (Column("Device", True), Column("Events", True), Column("Allocations", True), Column("Verdict"))
    return Table("Devices with a history; --device selects one", columns, tuple(rows))


def _sites(inspection: Inspection, most: int) -> Table:
    rows = [
        Row((_bytes(one.size_bytes), Cell(f"{one.allocations:,}"), Cell(one.where))) for one in inspection.sites[:most]
    ]
    rest = inspection.sites[most:]
    if rest:
        count = Cell(f"{sum(one.allocations for one in rest):,}")
        rows.append(
            Row((_bytes(sum(one.size_bytes for one in rest)), count, Cell(f"{format_count(len(rest), 'more line')}")))
        )
    columns = (Column("Bytes", True), Column("Allocations", True), Column("Made at"))
    return Table("Live allocations at the peak, by line of source", columns, tuple(rows))


def _alternatives(found: SnapshotReplay, inspection: Inspection) -> Table:
    failed, rows = found.recording.out_of_memory, []
    own = next(iter(inspection.alternatives), None)

    def peak(value: int | None, recorded: int | None) -> Cell:
        is_less = value is not None and recorded is not None and value < recorded
        return Cell(format_bytes(value), sort=value, tone="good" if is_less else "")

    for one in inspection.alternatives:
        assert own is not None
        waste = Cell("–" if one.fragmentation is None else f"{one.fragmentation:.1%}")
        failures = "out of memory" if one.out_of_memory else format_count(failed - one.served, "request")
        cells = [Cell(one.settings), peak(one.peak_reserved_bytes, own.peak_reserved_bytes), waste]
        cells += [peak(one.emptied_peak_reserved_bytes, own.emptied_peak_reserved_bytes)]
        cells += [Cell(failures if failed or one.out_of_memory else "", tone="bad" if failed > one.served else "")]
        rows.append(Row(tuple(cells)))
    names = ("Peak reserved", "Never allocated", "Peak, cache emptied first")
    columns = (Column("Settings"), *(Column(name, numeric=True) for name in names), Column("Failed"))
    caption = "What other settings of the allocator would have reserved"
    return without_empty_columns(Table(caption, columns, tuple(rows)))


def _bytes(count: int | None) -> Cell:
    return Cell(format_bytes(count), sort=count)


def replay_page(found: SnapshotReplay, inspection: Inspection, name: str, command: str) -> str:
    """Return the page of a replay. ``name`` is that of the file."""
    from slr_bench.report.formats.documents import render_html

    pictures = [*_timeline(inspection), *_segment_map(inspection)]
    sites, alternatives = _sites(inspection, len(inspection.sites)), _alternatives(found, inspection)
    where = "at the peak" if inspection.peak_event is not None else "when the file was written"
    sections = [
        Section("segments", f"Segments {where}", (_WORDS,), (_pools(inspection, where),)),
        Section("settings", "What would have helped", (_HELP,), (alternatives,)),
        Section("source", "Live allocations by line of source", (), (sites,)),
    ]
    sections += [Section("devices", "Devices", (), (_devices(found),))] if found.others else []
    report = Report(
        title=plain(f"Allocator history of {name}", 120),
        lead=plain(verdict_text(found), 800),
        measured=plain(" ".join(_notes(found)), 800),
        warnings=(),
        cards=(),
        headline=_peaks(found),
        sections=tuple(section for section in sections if section.tables[0].rows),
        command=command,
    )
    return render_html(report, pictures)


_WORDS: Final = (
    "Fragmented memory is free, but in segments that also have blocks in use, so it cannot be given back. "
    "Cached segments have no block in use."
)
_HELP: Final = (
    "Each row is a replay of the same requests under other settings, from the state that the recording begins in. "
    "Where the recording gave segments back, the cache is emptied. A setting that is there from the start of the "
    "process can help more than these figures show."
)


def _pools(inspection: Inspection, where: str) -> Table:
    groups: dict[tuple[str, int], list[SegmentUse]] = {}
    for one in inspection.segments:
        kind = ("small" if one.is_small else "large") + (", expandable" if one.is_expandable else "")
        groups.setdefault((kind, one.stream), []).append(one)
    rows = []
    for (kind, stream), segments in sorted(groups.items()):
        size, allocated = (sum(getattr(one, name) for one in segments) for name in ("size_bytes", "allocated_bytes"))
        cached = sum(one.size_bytes for one in segments if not one.blocks)
        cells = [Cell(kind), Cell(f"{stream:#x}" if stream else "default"), Cell(f"{len(segments):,}")]
        cells += map(_bytes, (size, allocated, size - allocated - cached, cached))
        cells += [_bytes(max(one.largest_free_bytes for one in segments))]
        rows.append(Row((*cells, Cell(f"{sum(one.blocks for one in segments):,}"))))
    numbers = ("Segments", "Reserved", "Allocated", "Fragmented", "Cached", "Largest free block", "Blocks")
    columns = (Column("Pool"), Column("Stream"), *(Column(name, numeric=True) for name in numbers))
    return Table(f"Segments by pool {where}", columns, tuple(rows))


def _timeline(inspection: Inspection) -> Iterator[Picture]:
    if not inspection.points:
        return
    from slr_bench.report.charts.matplotlib_renderer import areas_picture
    from slr_bench.report.charts.memory import Timeline, stacked_area

    points = inspection.points
    allocated = tuple(float(one.allocated_bytes) for one in points)
    cached = tuple(float(one.cached_bytes) for one in points)
    reserved = tuple(float(one.reserved_bytes) for one in points)
    fragmented = tuple(whole - own - idle for whole, own, idle in zip(reserved, allocated, cached, strict=True))
    series = dict(zip(_LAYERS, (allocated, fragmented, cached), strict=True))
    line = Timeline(tuple(float(one.event) for one in points), reserved, ("",) * len(points), series)
    ends = f"event {points[0].event + 1:,}", f"{points[-1].event + 1:,}"
    chart = stacked_area(line, "events", ends, None, "arm-0")
    chart = replace(chart, layers=tuple(layer._replace(colour=_LAYERS[layer.name]) for layer in chart.layers))
    alt = (
        f"Reserved memory over the events, stacked: allocated, fragmented, cached; peak {format_bytes(max(reserved))}."
    )
    yield areas_picture("timeline", "Reserved memory: allocated, fragmented and cached", alt, [("", chart)])


def _segment_map(inspection: Inspection) -> Iterator[Picture]:
    if not inspection.segments:
        return
    from slr_bench.report.charts.matplotlib_renderer import bars_picture

    most_free = sorted(inspection.segments, key=lambda one: one.allocated_bytes - one.size_bytes)
    shown = sorted(most_free[:SEGMENTS_DRAWN], key=lambda one: -one.size_bytes)
    scale = Scale(0, max(one.size_bytes for one in shown))
    rows = []
    for one in shown:
        bars = [Bar(0.0, scale.position(one.size_bytes), _LAYERS["fragmented" if one.blocks else "cached"])]
        for start, end in one.used:
            edges = scale.position(start), scale.position(end)
            if len(bars) > 1 and edges[0] - bars[-1].end < _LEAST_GAP:
                edges = bars.pop().start, edges[1]
            bars.append(Bar(*edges, _LAYERS["allocated"]))
        text = f"{format_bytes(one.allocated_bytes)} in {format_count(one.blocks, 'block')}" if one.blocks else "free"
        rows.append(BarRow(format_bytes(one.size_bytes), tuple(bars), text, bars[0].end))
    chart = BarChart(
        title="",
        rows=tuple(rows),
        ticks=scale.ticks(range(0, int(scale.high) + 1, byte_step(scale.high))),
        room=0.3,
        x_label="address within the segment",
        legend=tuple(LegendEntry(colour, name) for name, colour in _LAYERS.items()),
    )
    count = len(inspection.segments)
    title = f"The {len(shown)} segments with most free memory, of {count:,}" if count > len(shown) else "All segments"
    alt = f"{title}: allocated and free blocks by address; the largest segment has {format_bytes(scale.high)}."
    yield bars_picture("segments", title, alt, [chart])
