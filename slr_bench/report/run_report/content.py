"""A run directory's content as one report structure, before any picture is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from slr_bench.compare.cells import MEASURED, CellSummary, own_cell, summarize_cells
from slr_bench.grid.techniques import AblationChain
from slr_bench.record import Record
from slr_bench.report.formats.table import Report, Section
from slr_bench.report.run_report.answers import answers, questions
from slr_bench.report.run_report.cell_panels import Panels, panels
from slr_bench.report.run_report.commands import again
from slr_bench.report.run_report.discards import discards_section
from slr_bench.report.run_report.front import front_section
from slr_bench.report.run_report.headline import cards, headline_table, lead
from slr_bench.report.run_report.matrix import matrix_section
from slr_bench.report.run_report.pareto import Field, field
from slr_bench.report.run_report.predicted import predicted_section
from slr_bench.report.run_report.provenance import cost_section, environment_section, methods_section
from slr_bench.report.run_report.read import RunDirectory, read_directory
from slr_bench.report.run_report.sections import (
    disagreements,
    grid_section,
    missing_section,
    statistics_section,
    unread_section,
)
from slr_bench.report.run_report.techniques import rungs, split_sentence, waterfall_section
from slr_bench.report.text.setting import batch_warning, difference_table, main_workload, measured_sentence
from slr_bench.report.text.words import plain
from slr_bench.run.store import Manifest

SHOWN: Final = 2
"""Cells that are open at first."""


@dataclass(frozen=True)
class RunContent:
    """The directory read once: cells for the pictures, the report for the renderers."""

    cells: tuple[CellSummary, ...]
    arms: tuple[str, ...]
    """Those that the headline compares: the two ends where techniques lie between them."""
    ladder: AblationChain | None
    workload: str
    """The workload of the pictures."""
    field: Field | None
    """Its cells by memory, time and accuracy."""
    measured: bool
    """Whether any run ended ok or out of memory."""
    report: Report
    directory: RunDirectory


def read_content(run_dir: Path) -> RunContent:
    """Read a run directory, finished or not.

    Raises:
        ConfigError: ``run_dir`` holds neither a readable ``grid.json`` nor a readable record.
    """
    found = read_directory(run_dir)
    store, manifest, records, problems = found.store, found.manifest, found.records, found.problems
    cells = summarize_cells(manifest, records, found.unreadable)
    ladder = manifest.ladder
    made = dict.fromkeys(entry.arm for entry in manifest.cells)
    ends = [arm for arm in made if ladder and arm in (ladder.start, ladder.end)]
    arms = tuple(ends or made)
    workload = main_workload(cells, manifest.workload)
    points = field(cells, workload)
    shown = [cell for arm in arms if (cell := own_cell(cells, arm, workload)) and cell.records][:SHOWN]
    first = (
        waterfall_section(cells, ladder, workload) if ladder else None,
        matrix_section(cells),
        front_section(points, arms),
        _cells_section(panels(cells, shown, store)),
    )
    asked = questions(cells)
    answered = [answers(cells, arms, question) for question in asked]
    last = (
        grid_section(cells),
        missing_section(cells, records, problems),
        discards_section(cells, found.discarded),
        _arms_section(cells, arms, workload),
        predicted_section(cells),
        replace(statistics_section(asked, answered), is_folded=True),
        *_reference(manifest, records),
    )
    warning = batch_warning(cells, arms, workload)
    split = split_sentence(rungs(cells, ladder, workload)) if ladder else ""
    report = Report(
        title=_title(arms),
        lead=f"{lead(asked, answered)} {split}".strip(),
        measured=measured_sentence(cells, arms, workload, _seen_environment(manifest, cells, workload)),
        warnings=(*(plain(text, 600) for text in (found.fault, warning) if text), *disagreements(cells)),
        cards=cards(asked, answered),
        headline=headline_table(asked, answered, arms),
        sections=tuple(section for section in (*first, *last) if section is not None),
        command=again(manifest.command, arms),
    )
    measured = any(record.outcome in MEASURED for record in records)
    return RunContent(tuple(cells), arms, ladder, workload, points, measured, report, found)


def _cells_section(shown: Panels) -> Section | None:
    if not shown.panels:
        return None
    text = (
        "Live tensor bytes over one steady step, by what they are; dashed lines are the peak and the operator floor, "
        "the strip below the ground is the phase. Beside it the peak by module: areas are bytes."
    )
    return Section("cells", "Inside a cell", (text,), (), (shown,))


def _arms_section(cells: Sequence[CellSummary], arms: Sequence[str], workload: str) -> Section | None:
    differences = difference_table(cells, arms, workload)
    return Section("arms", "What the arms are", (), (differences,)) if differences else None


def _reference(manifest: Manifest, records: Sequence[Record]) -> list[Section | None]:
    """What is looked up, not read."""
    made = (
        methods_section(records),
        cost_section(records),
        environment_section(manifest, records),
        unread_section(records),
    )
    return [replace(section, is_folded=True) if section else None for section in made]


def _title(arms: tuple[str, ...]) -> str:
    if len(arms) < 2:
        return plain(arms[0], 40) if arms else "An empty grid"
    more = f", and {len(arms) - 2} more" if len(arms) > 2 else ""
    return f"{plain(arms[1], 40)} against {plain(arms[0], 40)}{more}"


def _seen_environment(manifest: Manifest, cells: list[CellSummary], workload: str) -> Mapping[str, object]:
    """The environment as the workload's first record saw it: only the child knows its device."""
    seen = [record for cell in cells if cell.entry.workload == workload for record in cell.records]
    return manifest.environment | (seen[0].environment if seen else {})
