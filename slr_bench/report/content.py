"""A run directory's content as one report structure, before any picture is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slr_bench.compare.summary import MEASURED, CellSummary, summarize_cells
from slr_bench.errors import ConfigError
from slr_bench.grid.techniques import Ladder
from slr_bench.record import Record
from slr_bench.report.answers import answers, questions
from slr_bench.report.discards import discards_section
from slr_bench.report.headline import cards, headline_table, lead
from slr_bench.report.provenance import cost_section, environment_section, methods_section
from slr_bench.report.sections import disagreements, grid_section, missing_section, statistics_section, unread_section
from slr_bench.report.setting import batch_warning, difference_table, main_workload, measured_sentence
from slr_bench.report.table import Report, Section
from slr_bench.report.waterfall import rungs, split_sentence, waterfall_section
from slr_bench.report.words import plain
from slr_bench.run.store import Manifest, Store

COMMAND_LIMIT = 2000


@dataclass(frozen=True)
class RunContent:
    """The directory read once: cells for the pictures, the report for the renderers."""

    cells: tuple[CellSummary, ...]
    arms: tuple[str, ...]
    """Those that the headline compares: the two ends where techniques lie between them."""
    ladder: Ladder | None
    workload: str
    """The workload of the pictures."""
    measured: bool
    """Whether any run ended ok or out of memory."""
    report: Report


def read_content(run_dir: Path) -> RunContent:
    """Read a run directory, finished or not.

    Raises:
        ConfigError: ``run_dir`` holds no readable ``grid.json``.
    """
    store = Store(run_dir)
    manifest = store.read_manifest()
    if manifest is None:
        raise ConfigError(
            f"{run_dir} is not a run directory: it has no grid.json; give the directory that `slr-bench run` wrote"
        )
    records, problems = store.read_records()
    cells = summarize_cells(manifest, records)
    ladder = manifest.ladder
    made = dict.fromkeys(entry.arm for entry in manifest.cells)
    ends = [arm for arm in made if ladder and arm in (ladder.start, ladder.end)]
    arms = tuple(ends or made)
    workload = main_workload(cells, manifest.workload)
    report = _report(manifest, cells, arms, workload, records, problems, store.read_discarded())
    return RunContent(
        tuple(cells), arms, ladder, workload, any(record.outcome in MEASURED for record in records), report
    )


def _report(
    manifest: Manifest,
    cells: list[CellSummary],
    arms: tuple[str, ...],
    workload: str,
    records: list[Record],
    problems: list[str],
    discarded: list[Record],
) -> Report:
    asked = questions(cells)
    found = [answers(cells, arms, question) for question in asked]
    warning = batch_warning(cells, arms, workload)
    differences = difference_table(cells, arms, workload)
    waterfall = waterfall_section(cells, manifest.ladder, workload) if manifest.ladder else None
    split = split_sentence(rungs(cells, manifest.ladder, workload)) if manifest.ladder else ""
    sections = [
        waterfall,
        Section("arms", "What the arms are", (), (differences,)) if differences else None,
        grid_section(cells),
        statistics_section(asked, found),
        methods_section(records),
        cost_section(records),
        environment_section(manifest, records),
        missing_section(cells, records, problems),
        discards_section(cells, discarded),
        unread_section(records),
    ]
    return Report(
        title=_title(arms),
        lead=f"{lead(asked, found)} {split}".strip(),
        measured=measured_sentence(cells, arms, workload, _seen_environment(manifest, cells, workload)),
        warnings=(*([warning] if warning else []), *disagreements(cells)),
        cards=cards(asked, found),
        headline=headline_table(asked, found, arms),
        sections=tuple(section for section in sections if section is not None),
        command=plain(manifest.command, COMMAND_LIMIT),
    )


def _title(arms: tuple[str, ...]) -> str:
    if len(arms) < 2:
        return plain(arms[0], 40) if arms else "An empty grid"
    more = f", and {len(arms) - 2} more" if len(arms) > 2 else ""
    return f"{plain(arms[1], 40)} against {plain(arms[0], 40)}{more}"


def _seen_environment(manifest: Manifest, cells: list[CellSummary], workload: str) -> Mapping[str, object]:
    """The environment as the workload's first record saw it: only the child knows its device."""
    seen = [record for cell in cells if cell.entry.workload == workload for record in cell.records]
    return manifest.environment | (seen[0].environment if seen else {})
