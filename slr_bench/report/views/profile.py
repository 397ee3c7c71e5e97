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
    from matplotlib.figure import Figure

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
    from slr_bench.report.charts.model import category_variable, light
    from slr_bench.report.formats.documents import render_html

    names = list(dict.fromkeys([*found["timeline"]["by_category"], *found["by_category"]]))
    colours = {name: light(category_variable(name)) for name in names}
    pictures = [_timeline(found, colours), _module_bars(found, colours)]
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


def _timeline(found: Found, colours: Mapping[str, str]) -> Picture:
    from matplotlib.patches import Patch

    from slr_bench.report.charts.matplotlib_renderer import INK, WIDTH_INCH, byte_axis, draw, legend

    series = found["timeline"]["by_category"]
    floor, peak = found["floor_bytes"], found["peak_tensor_bytes"]
    count = len(found["timeline"]["phase"])
    x = [place / max(1, count - 1) for place in range(count)]

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        axes.stackplot(x, list(series.values()), colors=[colours[name] for name in series], linewidth=0, step="post")
        for value, text in ((peak, f"peak {format_bytes(peak)}"), (floor, f"operator floor {format_bytes(floor)}")):
            axes.axhline(value, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(text, (0.995, value), xytext=(0, 3), textcoords="offset points", ha="right", color=INK)
        _mark_phases(axes, found["timeline"]["phase"], x)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, peak * 1.12)
        axes.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        axes.set_xlabel("progress of the step, operator by operator")
        byte_axis(axes.yaxis, [peak])
        legend(axes, [Patch(color=colours[name]) for name in series], list(series), columns=4)

    alt = f"Stacked live bytes by category over one step; peak {format_bytes(peak)}, floor {format_bytes(floor)}."
    return draw("live-bytes", "Live bytes by category over the step", alt, (WIDTH_INCH, 3.9), paint)


def _mark_phases(axes: Any, phases: list[str], x: list[float]) -> None:
    """Write a phase's name where the phase is long enough for it."""
    start = 0
    for place in range(1, len(phases) + 1):
        if place < len(phases) and phases[place] == phases[start]:
            continue
        if phases[start] and x[place - 1] - x[start] > 0.07:
            middle = (x[start] + x[place - 1]) / 2
            axes.annotate(plain(phases[start], 16), (middle, 0), xytext=(0, 3), textcoords="offset points", ha="center",
                          color="white", fontsize="small")  # fmt: skip
        start = place


def _module_bars(found: Found, colours: Mapping[str, str]) -> Picture:
    from matplotlib.patches import Patch

    from slr_bench.report.charts.matplotlib_renderer import MUTED, WIDTH_INCH, byte_axis, draw, legend

    entries = found["by_module"][:MODULES_DRAWN]
    largest = max((entry["bytes"] for entry in entries), default=1)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, entry in enumerate(entries):
            left = 0
            for name in colours:
                size = entry["by_category"].get(name, 0)
                axes.barh(place, size, left=left, height=0.7, color=colours[name], linewidth=0)
                left += size
            axes.annotate(format_bytes(left), (left, place), xytext=(5, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(entries)), [plain(entry["module"], 40) for entry in entries])
        axes.set_ylim(len(entries) - 0.4, -0.6)
        axes.set_xlim(0, largest * 1.18)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(axis="x")
        byte_axis(axes.xaxis, [largest])
        used = [name for name in colours if any(entry["by_category"].get(name) for entry in entries)]
        legend(axes, [Patch(color=colours[name]) for name in used], used, columns=4)
        axes.set_xlabel("bytes at the peak", color=MUTED)

    alt = "; ".join(f"{entry['module']} {format_bytes(entry['bytes'])}" for entry in entries[:5])
    title = "The peak by module"
    return draw("modules", title, f"Bars: {plain(alt, 400)}.", (WIDTH_INCH, 1.3 + 0.27 * len(entries)), paint)
