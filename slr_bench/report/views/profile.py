"""Show a profile in the terminal or as a page with pictures: the peak by category, module and phase."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from slr_bench.errors import ConfigError
from slr_bench.report.formats.table import Cell, Column, Report, Row, Section, Table
from slr_bench.report.formats.terminal import print_table
from slr_bench.units import format_bytes, format_value, plain

MODULES_DRAWN: Final = 15
MODULES_SHOWN: Final = 12
TENSORS_SHOWN: Final = 10
WORKSPACE_SHOWN: Final = 6
MEANINGS: Final = {
    "parameter": "weights",
    "gradient": "of the weights",
    "optimizer state": "such as AdamW's two moments",
    "buffer": "such as batch norm's statistics",
    "input": "the micro-batch",
    "saved activation": "kept by autograd for backward",
    "weight cast": "copies of weights in autocast's type",
    "temporary": "everything else that the step creates",
    "held": "left by the previous step, but not part of the workload's state",
    "workspace": "allocated inside an operator, not a tensor",
    "rounding": "allocated beyond the requested size",
}

if TYPE_CHECKING:
    from slr_bench.report.charts.matplotlib_renderer import Picture

Found = Mapping[str, Any]


def print_profile(found: Found, console: Console) -> None:
    """Print the profile in the terminal."""
    report = profile_report(found, "")
    console.print(Text(report.title, style="bold"))
    console.print(Text(report.lead))
    console.print(Text(report.measured, style="dim"))
    for warning in report.warnings:
        console.print(Text(f"Warning: {warning}", style="bold yellow"))
    for section in report.sections:
        for table in section.tables:
            print_table(table, console)


def profile_report(found: Found, command: str) -> Report:
    """Return the profile as a report. Its headline is the table of categories."""
    categories = _categories(found)
    return Report(
        title=plain(
            f"Memory of {found['workload']}, arm {found['arm']}: {format_bytes(found['peak_tensor_bytes'])}", 120
        ),
        lead=_lead(found),
        measured=_measured(found),
        warnings=_warnings(found),
        cards=(),
        headline=categories,
        sections=(
            Section("category", "By category", (), (categories,)),
            Section("module", "By module", (), (_modules(found),)),
            Section("phase", "By phase", (), (_phases(found),)),
            Section("tensors", "Largest tensors", (), (_tensors(found),)),
            *_workspace(found),
        ),
        command=command,
    )


def _lead(found: Found) -> str:
    peak, floor = found["peak_tensor_bytes"], found["floor_bytes"]
    largest = max(found["by_category"], key=found["by_category"].__getitem__, default=None)
    phase = max(found["by_phase"], key=found["by_phase"].__getitem__, default="the step")
    text = f"The step holds {format_bytes(peak)} of tensors at its peak, in {phase}"
    if largest:
        text += f"; {100 * found['by_category'][largest] / peak:.0f} % of it is {largest}"
    text += "."
    if floor:
        at = found["floor"]
        where = f" ({at['operator']} in {at['module']}, {at['phase']})" if at["operator"] else " (the state alone)"
        text += (
            f" Its operators need {format_bytes(floor)} at least{where}: the peak is {peak / floor:.2f}× that floor."
        )
    return plain(text, 600)


def _measured(found: Found) -> str:
    text = f"{found['source']}: {found['operators']:,} operators of one steady step"
    if found["flops_per_step"]:
        text += f", {found['flops_per_step'] / 1e9:,.1f} GFLOP"
    allocator = found["allocator"]
    if allocator is None:
        return f"{text}. Not checked against an allocator: {found['residual_reason']}."
    text += f". Checked against the {allocator['source']}: its own peak is {format_bytes(allocator['peak_bytes'])}"
    text += f" (in {allocator['operator']})" if allocator["operator"] else ""
    split = found["floor"]["split_modules"]
    tail = f" Split operators: {', '.join(split)}." if split else ""
    return plain(f"{text}; bytes that neither side can account for: {found['residual_bytes']:,}.{tail}", 600)


def _warnings(found: Found) -> tuple[str, ...]:
    if not found["residual_bytes"]:
        return ()
    allocator = found["allocator"]
    makers = ", ".join(entry["operator"] for entry in allocator["unmatched"][:3])
    parts = [f"{allocator['unmatched_bytes']:,} bytes made before the step by {makers}"] if makers else []
    parts += (
        [f"{allocator['missing_bytes']:,} bytes traced without an allocation"] if allocator["missing_bytes"] else []
    )
    more = allocator["disturbance_bytes"]
    parts += (
        [f"{abs(more):,} bytes {'more' if more > 0 else 'less'} than in the same step without the tracer"]
        if more
        else []
    )
    return (f"{format_bytes(found['residual_bytes'])} are not accounted for: {', '.join(parts)}.",)


def _categories(found: Found) -> Table:
    """Return the categories at the peak of the tensors and at the allocator's own peak."""
    traced = found["by_category"]
    allocator = found["allocator"]["by_category"] if found["allocator"] else {}
    names = [*traced, *(name for name in allocator if name not in traced)]
    columns = [Column("Category"), Column("Tensor peak", numeric=True), Column("Share", numeric=True)]
    columns += [Column("Allocator's peak", numeric=True)] if allocator else []
    peak = found["peak_tensor_bytes"]
    rows = []
    for name in names:
        count = traced.get(name)
        cells = [Cell(name), _bytes(count), Cell("–" if count is None else f"{100 * count / peak:.1f} %", sort=count)]
        cells += [_bytes(allocator.get(name))] if allocator else []
        rows.append(Row((*cells, Cell(MEANINGS.get(name, "")))))
    total = [Cell("all"), _bytes(peak), Cell("100 %")]
    total += [_bytes(found["allocator"]["peak_bytes"])] if allocator else []
    rows.append(Row((*total, Cell("")), strong=True))
    return Table("The peak by category", (*columns, Column("What it is")), tuple(rows))


def _modules(found: Found) -> Table:
    shown, rest = found["by_module"][:MODULES_SHOWN], found["by_module"][MODULES_SHOWN:]
    rows = []
    for entry in shown:
        rows.append(Row((Cell(plain(entry["module"], 60)), _bytes(entry["bytes"]), Cell(_parts(entry["by_category"])))))
    if rest:
        rows.append(Row((Cell(f"{len(rest)} more modules"), _bytes(sum(entry["bytes"] for entry in rest)), Cell(""))))
    columns = (Column("Module"), Column("Bytes", numeric=True), Column("Largest parts"))
    return Table("The peak by module", columns, tuple(rows))


def _parts(by_category: Mapping[str, int]) -> str:
    largest = sorted(by_category.items(), key=lambda item: -item[1])[:3]
    return ", ".join(f"{name} {format_bytes(count)}" for name, count in largest)


def _phases(found: Found) -> Table:
    peak = found["peak_tensor_bytes"]
    rows = []
    for name, count in found["by_phase"].items():
        share = Cell(f"{100 * count / peak:.0f} %", sort=count)
        rows.append(Row((Cell(plain(name, 40)), _bytes(count), share), strong=count == peak))
    columns = (Column("Phase"), Column("Most live bytes", True), Column("Of the peak", True))
    return Table("Highest point of each phase", columns, tuple(rows))


def _tensors(found: Found) -> Table:
    rows = []
    for tensor in found["top"][:TENSORS_SHOWN]:
        shape = "×".join(map(str, tensor["shape"])) or "scalar"
        where = plain(tensor["module"], 60), plain(tensor["origin"], 80)
        texts = f"{shape} {tensor['dtype']}", tensor["category"], *where
        rows.append(Row((_bytes(tensor["bytes"]), *map(Cell, texts))))
    columns = [Column("Bytes", numeric=True), *map(Column, ("Tensor", "Category", "Module", "Made at"))]
    return Table("The largest tensors at the peak", tuple(columns), tuple(rows))


def _workspace(found: Found) -> tuple[Section, ...]:
    entries = found["allocator"]["workspace"] if found["allocator"] else []
    if not entries:
        return ()
    rows = [Row((Cell(plain(entry["operator"], 60)), _bytes(entry["bytes"]))) for entry in entries[:WORKSPACE_SHOWN]]
    table = Table("Workspace at the allocator's peak", (Column("Operator"), Column("Bytes", numeric=True)), tuple(rows))
    return (Section("workspace", "Workspace", (), (table,)),)


def _bytes(count: int | None) -> Cell:
    return Cell(format_value(count, "bytes"), sort=count)


def write_page(found: Found, directory: Path, command: str) -> Path:
    """Write ``profile.html``, ``profile.json`` and the pictures (SVG, PNG) into ``directory``.

    Returns the path of the page. Matplotlib is imported here, so that printing starts without it.

    Raises:
        ConfigError: it cannot be written there.
    """
    from slr_bench.report.formats.documents import render_html

    pictures = [_timeline(found), _module_bars(found)]
    page = directory / "profile.html"
    try:
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            (directory / "figures" / f"{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
            (directory / "figures" / f"{picture.name}.png").write_bytes(picture.png)
        (directory / "profile.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        page.write_text(render_html(profile_report(found, command), pictures), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write into {directory}: {error.strerror}; choose another with --out") from error
    return page


def _timeline(found: Found) -> Picture:
    from slr_bench.report.charts.matplotlib_renderer import areas_picture
    from slr_bench.report.charts.memory import Timeline, stacked_area

    series = {name: tuple(values) for name, values in found["timeline"]["by_category"].items()}
    phases = tuple(found["timeline"]["phase"])
    floor, peak = found["floor_bytes"], found["peak_tensor_bytes"]
    x = tuple(place / max(1, len(phases) - 1) for place in range(len(phases)))
    line = Timeline(x, tuple(map(sum, zip(*series.values(), strict=True))), phases, series)
    chart = stacked_area(line, "progress of the step, operator by operator", ("0 %", "100 %"), floor, "arm-0", peak)
    alt = f"Stacked live bytes by category over one step; peak {format_bytes(peak)}, floor {format_bytes(floor)}."
    return areas_picture("live-bytes", "Live bytes by category over the step", alt, [("", chart)])


def _module_bars(found: Found) -> Picture:
    from slr_bench.report.charts.matplotlib_renderer import bars_picture
    from slr_bench.report.charts.model import Bar, BarChart, BarRow, LegendEntry, Scale, byte_step, category_variable

    entries = found["by_module"][:MODULES_DRAWN]
    used = {name for entry in entries for name in entry["by_category"]}
    order = dict.fromkeys([*found["timeline"]["by_category"], *found["by_category"]])
    names = [name for name in order if name in used]
    scale = Scale(0, max((entry["bytes"] for entry in entries), default=1) or 1)
    rows = []
    for entry in entries:
        bars, end = list[Bar](), 0
        for name in filter(entry["by_category"].get, names):
            start, end = end, end + entry["by_category"][name]
            bars.append(Bar(scale.position(start), scale.position(end), category_variable(name)))
        rows.append(BarRow(plain(entry["module"], 40), tuple(bars), format_bytes(end), scale.position(end)))
    chart = BarChart(
        title="",
        rows=tuple(rows),
        ticks=scale.ticks(range(0, int(scale.high) + 1, byte_step(scale.high))),
        x_label="bytes at the peak",
        legend=tuple(LegendEntry(category_variable(name), name) for name in names),
    )
    alt = "; ".join(f"{entry['module']} {format_bytes(entry['bytes'])}" for entry in entries[:5])
    return bars_picture("modules", "The peak by module", f"Bars: {plain(alt, 400)}.", [chart])
