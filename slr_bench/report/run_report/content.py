"""Reads a run directory and makes its report, before any picture is drawn.

A report also shows what a runner refuses: a lost manifest, a value that is no number, a record of another version.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slr_bench.compare.cells import MEASURED, CellSummary, FoundRecords, find_records, own_cell, summarize_cells
from slr_bench.errors import ConfigError
from slr_bench.files import flatten
from slr_bench.grid.config import AblationChain
from slr_bench.record import Record
from slr_bench.report.formats.table import Report, Section
from slr_bench.report.run_report.cell_panels import cells_section
from slr_bench.report.run_report.headline import Headline, cards, headline_table, lead, read_headline
from slr_bench.report.run_report.pareto import TradeoffPoints, front_section, tradeoff_points
from slr_bench.report.run_report.provenance import (
    batch_warnings,
    cost_section,
    environment_section,
    events_section,
    methods_section,
    predicted_section,
    statistics_section,
    unread_section,
)
from slr_bench.report.run_report.sections import (
    disagreements,
    discards_section,
    grid_section,
    matrix_section,
    missing_section,
)
from slr_bench.report.run_report.techniques import AccuracySource, ablation_steps, split_sentence, waterfall_section
from slr_bench.report.text.wording import batch_warning, difference_table, main_workload, measured_sentence
from slr_bench.run.store import CellEntry, Manifest, Store
from slr_bench.units import plain

OPEN: Final = 2
"""Number of cells whose panels are open at first."""
COMMAND_LIMIT: Final = 2000
DEFAULT_DIRECTORY: Final = "reports/latest"


LOST_ARM: Final = "arm not known"
"""Name of the arm of every cell if the manifest is lost."""
_MOST_AXES: Final = 6


@dataclass(frozen=True)
class RunDirectory:
    """The content of a run directory."""

    store: Store
    manifest: Manifest
    records: list[Record]
    discarded: list[Record]
    problems: list[str]
    """One line per reason why files are no records, or are not complete."""
    unreadable: Mapping[str, str]
    """Name of each record that cannot be read -> the reason."""
    fault: str | None
    """Why there is no manifest. If it is set, the manifest here was made from the records."""


@dataclass(frozen=True)
class RunContent:
    """A run directory that was read once: its cells for the pictures, and its report for the formats."""

    cells: tuple[CellSummary, ...]
    arms: tuple[str, ...]
    """The arms that the headline compares; of a chain of techniques, its two ends."""
    chain: AblationChain | None
    workload: str
    """The workload of the pictures."""
    tradeoff: TradeoffPoints | None
    """The cells of that workload by memory, time and accuracy."""
    is_measured: bool
    """True if any run ended ok or out of memory."""
    report: Report
    directory: RunDirectory


def read_content(run_dir: Path) -> RunContent:
    """Read a run directory, which may still be running, and make its report.

    Raises:
        ConfigError: ``run_dir`` holds neither a readable ``grid.json`` nor a readable record.
    """
    return make_content(read_directory(run_dir))


def make_content(directory: RunDirectory) -> RunContent:
    """Make the report of a run directory that was read."""
    manifest = directory.manifest
    cells = summarize_cells(manifest, directory.records, directory.unreadable)
    arms = _compared_arms(manifest)
    workload = main_workload(cells, manifest.workload)
    accuracy = _accuracy_source(cells)
    tradeoff = tradeoff_points(cells, workload, accuracy)
    headline = read_headline(cells, arms)
    split = split_sentence(ablation_steps(cells, manifest.ladder, workload)) if manifest.ladder else ""
    warnings = (directory.fault, batch_warning(cells, arms, workload))
    own = [cell for arm in arms if (cell := own_cell(cells, arm, workload)) and cell.records]
    sections = (
        waterfall_section(cells, manifest.ladder, workload, accuracy) if manifest.ladder else None,
        matrix_section(cells),
        front_section(tradeoff, arms),
        cells_section(cells, own[:OPEN], directory.store),
        grid_section(cells),
        *_later_sections(directory, cells, arms, workload, headline),
    )
    report = Report(
        title=_title(arms),
        lead=f"{lead(headline)} {split}".strip(),
        measured=measured_sentence(cells, arms, workload, _environment(manifest, cells, workload)),
        warnings=(*(plain(text, 600) for text in warnings if text), *batch_warnings(cells), *disagreements(cells)),
        cards=cards(headline),
        headline=headline_table(headline),
        sections=tuple(section for section in sections if section is not None),
        command=commands(manifest.command, arms),
    )
    is_measured = any(record.outcome in MEASURED for record in directory.records)
    return RunContent(tuple(cells), arms, manifest.ladder, workload, tradeoff, is_measured, report, directory)


def _later_sections(
    directory: RunDirectory, cells: Sequence[CellSummary], arms: Sequence[str], workload: str, headline: Headline
) -> list[Section | None]:
    """Return what failed, and the reference matter."""
    records = directory.records
    differences = difference_table(cells, arms, workload)
    return [
        missing_section(cells, records, directory.problems),
        events_section(cells),
        discards_section(cells, directory.discarded),
        Section("arms", "What the arms are", (), (differences,)) if differences else None,
        predicted_section(cells),
        statistics_section(headline),
        methods_section(cells, records),
        cost_section(records),
        environment_section(directory.manifest, records),
        unread_section(cells, records),
    ]


def _compared_arms(manifest: Manifest) -> tuple[str, ...]:
    """Return all arms; where techniques lie between two of them, these two."""
    arms, chain = dict.fromkeys(entry.arm for entry in manifest.cells), manifest.ladder
    ends = [arm for arm in arms if chain and arm in (chain.start, chain.end)]
    return tuple(ends or arms)


def _accuracy_source(cells: Sequence[CellSummary]) -> AccuracySource | None:
    """Return the first workload with a known accuracy; None where no accuracy is known."""
    for cell in cells:
        metric = cell.description.accuracy_metric
        if metric is not None and cell.value(metric) is not None:
            return AccuracySource(cell.entry.workload, metric)
    return None


def _title(arms: tuple[str, ...]) -> str:
    if len(arms) < 2:
        return plain(arms[0], 40) if arms else "An empty grid"
    more = f", and {len(arms) - 2} more" if len(arms) > 2 else ""
    return f"{plain(arms[1], 40)} against {plain(arms[0], 40)}{more}"


def _environment(manifest: Manifest, cells: Sequence[CellSummary], workload: str) -> Mapping[str, object]:
    """Return the environment with that of the workload's first record: only the child knows its device."""
    records = [record for cell in cells if cell.entry.workload == workload for record in cell.records]
    return manifest.environment | (records[0].environment if records else {})


def commands(command: str, arms: Sequence[str]) -> str:
    """Return shell lines that measure all of it again, profile one arm, and make the report.

    A command other than ``slr-bench run`` is returned alone.
    """
    first = plain(command, COMMAND_LIMIT)
    try:
        words = shlex.split(command)
    except ValueError:
        return first
    if words[:2] != ["slr-bench", "run"] or len(words) < 3 or words[2].startswith("-"):
        return first
    config, out = words[2], DEFAULT_DIRECTORY
    for word, following in zip(words, [*words[1:], ""], strict=True):
        out = following if word == "--out" else word.removeprefix("--out=") if word.startswith("--out=") else out
    fake = " --fake" if "--fake" in words else ""
    lines = [(first, "measure it")]
    if arms:
        profile = f"slr-bench profile {shlex.quote(config)} --arm {shlex.quote(arms[-1])}{fake}"
        lines.append((plain(profile, COMMAND_LIMIT), "every byte of one step, by tensor"))
    lines.append((plain(f"slr-bench report {shlex.quote(out)}", COMMAND_LIMIT), "this report"))
    return "\n".join(f"{line}  # {what}" for line, what in lines)


def read_directory(run_dir: Path) -> RunDirectory:
    """Read a run directory, complete or not.

    Raises:
        ConfigError: there is no such directory, or it holds neither a readable ``grid.json`` nor a readable record.
    """
    if not run_dir.is_dir():
        what = "is a file, not a run directory" if run_dir.exists() else "does not exist"
        raise ConfigError(f"{run_dir} {what}; give the directory that `slr-bench run` wrote")
    store = Store(run_dir)
    found = find_records(store)
    manifest, fault = _manifest(store, found)
    return RunDirectory(store, manifest, found.records, store.read_discarded(), found.problems, found.unreadable, fault)


def _manifest(store: Store, found: FoundRecords) -> tuple[Manifest, str | None]:
    try:
        manifest = store.read_manifest()
        cause = "it has no grid.json"
    except ConfigError as error:
        manifest, cause = None, str(error).rpartition("; ")[0].replace(f"{store.directory}/", "its ")
    if manifest is not None:
        return manifest, None
    records = found.records
    if not records:
        lost = f"none of its {len(found.unreadable)} records can be read ({next(iter(found.unreadable.values()), '')})"
        raise ConfigError(
            f"{store.directory} is not a run directory: {cause} and {plain(lost) if found.unreadable else 'no record'}"
            "; give the directory that `slr-bench run` wrote"
        )
    fault = (
        f"{store.directory}: {cause}. Arms, own settings and missing runs are not known; the report shows its "
        f"{len(records)} records alone; bring grid.json back, or run the grid again"
    )
    return _manifest_of(records), fault


def _manifest_of(records: Sequence[Record]) -> Manifest:
    """Make a manifest from the records. The keys in which their settings differ are used as axes."""
    first = {record.cell_id: record for record in records}
    varying = _varying(first.values())
    repeats = {name: 1 + max(one.repeat for one in records if one.cell_id == name) for name in first}
    cells = [
        CellEntry(
            cell_id=name,
            arm=LOST_ARM,
            workload=record.workload,
            setting=record.setting,
            coordinates={key: value for key, value in flatten(record.setting).items() if key in varying},
            is_own=False,
            repeats=repeats[name],
        )
        for name, record in first.items()
    ]
    unknown = "not known"
    return Manifest(
        workload=records[0].workload,
        source_hash=unknown,
        config_hash=unknown,
        environment=records[0].environment,
        command=unknown,
        cells=tuple(cells),
    )


def _varying(records: Iterable[Record]) -> list[str]:
    """Return the first keys in which settings differ."""
    values: dict[str, set[str]] = {}
    for record in records:
        for key, value in flatten(record.setting).items():
            values.setdefault(key, set()).add(json.dumps(value, sort_keys=True))
    return [key for key, found in values.items() if len(found) > 1][:_MOST_AXES]
