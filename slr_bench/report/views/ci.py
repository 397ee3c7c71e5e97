"""Files for continuous integration: JUnit XML, and the head's values for Bencher and github-action-benchmark.

The JUnit file is valid against the Ant schema (windyroad) and against that of Jenkins' xUnit plugin.
"""

from __future__ import annotations

import datetime
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree import ElementTree

from slr_bench.compare.comparison import Comparison
from slr_bench.compare.gate import CellVerdict, GateResult, RuleResult
from slr_bench.compare.judgement import ComparedCell
from slr_bench.report.views.compare import cell_name, change_text, title, verdict_cell
from slr_bench.report.views.gate import headline
from slr_bench.units import format_value, plain

_CELLS: Final = "cells"
_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>'
_MEASURE_LIMIT: Final = 64
"""Bencher's limit for the name of a measure, in characters."""
State = Literal["", "failure", "error", "skipped"]


@dataclass(frozen=True)
class _Case:
    name: str
    classname: str
    state: State = ""
    message: str = ""


def gate_junit(result: GateResult, now: datetime.datetime | None = None) -> str:
    """Return one suite per rule with one case per cell, and a suite of missing, crashed and out-of-memory cells."""
    root = ElementTree.Element("testsuites")
    stamp = _stamp(now)
    suites = [(plain(one.rule.text, 80), _rule_cases(one)) for one in result.rules]
    about = {"compared": title(result.comparison), "verdict": headline(result)}
    for number, (name, cases) in enumerate([*suites, (_CELLS, _outcome_cases(result))]):
        root.append(_suite(number, name, cases, stamp, about))
    return _document(root)


def no_verdict_junit(text: str, now: datetime.datetime | None = None) -> str:
    """Return a single test case that is an error, because the gate ended without a verdict."""
    root = ElementTree.Element("testsuites")
    root.append(_suite(0, "gate", [_Case("verdict", "slr_bench.gate", "error", text)], _stamp(now), {"verdict": text}))
    return _document(root)


def _stamp(now: datetime.datetime | None) -> str:
    return (now or datetime.datetime.now(datetime.UTC)).strftime("%Y-%m-%dT%H:%M:%S")


def _document(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return f"{_DECLARATION}\n{ElementTree.tostring(root, encoding='unicode')}\n"


def _suite(number: int, name: str, cases: list[_Case], stamp: str, about: dict[str, str]) -> ElementTree.Element:
    counts = {f"{state}s": str(sum(case.state == state for case in cases)) for state in ("failure", "error")}
    attributes = {"name": name, "package": "slr_bench.gate", "id": str(number), "timestamp": stamp}
    attributes |= {"hostname": "localhost", "tests": str(len(cases)), **counts}
    attributes |= {"skipped": str(sum(case.state == "skipped" for case in cases)), "time": "0"}
    suite = ElementTree.Element("testsuite", attributes)
    properties = ElementTree.SubElement(suite, "properties")
    for key, value in about.items():
        ElementTree.SubElement(properties, "property", {"name": key, "value": value})
    for case in cases:
        element = ElementTree.SubElement(
            suite, "testcase", {"name": case.name, "classname": case.classname, "time": "0"}
        )
        if case.state:
            kind = {"message": case.message, "type": "gate"}
            ElementTree.SubElement(element, case.state, kind).text = case.message
    for stream in ("system-out", "system-err"):
        ElementTree.SubElement(suite, stream)
    return suite


def _rule_cases(result: RuleResult) -> list[_Case]:
    rule = plain(result.rule.text, 80)
    unjudged: Literal["skipped", "error"] = "skipped" if result.rule.optional else "error"
    if not result.cells:
        return [_Case(rule, "slr_bench.gate", unjudged, plain(result.reason or "no cell has it"))]
    found = []
    for cell in result.cells:
        state: State = ""
        if cell.ruling in ("broken", "unjudged"):
            state = "failure" if cell.ruling == "broken" else unjudged
        class_name = plain(f"slr_bench.gate.{cell.row.metric}", 120)
        found.append(_Case(cell_name(cell.row), class_name, state, _message(cell)))
    return found


def _message(cell: CellVerdict) -> str:
    row = cell.row
    values = f"{format_value(row.base, row.unit)} -> {format_value(row.head, row.unit)} ({change_text(row)})"
    reason = cell.reason or row.reason
    return plain(f"{row.metric}: {values}" + (f"; {reason}" if reason else ""))


def _outcome_cases(result: GateResult) -> list[_Case]:
    states: dict[tuple[str, str], tuple[State, str]] = {
        (cell.cell_id, cell.arm): ("skipped", "missing in the head, which is allowed") for cell in result.allowed
    }
    for pair in result.comparison.crashed:
        states[pair.cell_id, pair.arm] = "error", f"crashed in the head: {pair.reason}"
    for cell in result.missing:
        states[cell.cell_id, cell.arm] = "failure", f"missing in the head: {cell.reason or 'no such cell'}"
    for pair in result.no_longer:
        states[pair.cell_id, pair.arm] = "failure", f"out of memory in the head: {pair.reason}"
    found = []
    for pair in result.comparison.outcomes:
        state, message = states.get((pair.cell_id, pair.arm), ("", ""))
        found.append(_Case(cell_name(pair), f"slr_bench.gate.{_CELLS}", state, plain(message)))
    return found


def bencher_metrics(comparison: Comparison) -> str:
    """Return the Bencher Metric Format: benchmark (cell) -> measure (metric) -> value with its range."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, cell in _named(comparison.cells):
        assert cell.head is not None
        measure = {"value": cell.head}
        if cell.head_range is not None:
            measure |= dict(zip(("lower_value", "upper_value"), cell.head_range, strict=True))
        found.setdefault(name, {})[plain(cell.metric, _MEASURE_LIMIT)] = measure
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def smaller_is_better(comparison: Comparison) -> str:
    """Return ``customSmallerIsBetter`` of github-action-benchmark: bytes, times and energy.

    Speeds and accuracies are left out, because larger values are better.
    """
    found: list[dict[str, object]] = []
    about = title(comparison)
    for name, cell in _named(comparison.cells):
        if cell.larger_is_better:
            continue
        entry: dict[str, object] = {"name": f"{name}: {plain(cell.metric, _MEASURE_LIMIT)}"}
        entry |= {"unit": cell.unit, "value": cell.head}
        if cell.head_range is not None:
            low, high = (format_value(value, cell.unit) for value in cell.head_range)
            entry["range"] = f"{low} – {high}"
        found.append(entry | {"extra": f"{about}: {change_text(cell)}, {verdict_cell(cell).text}"})
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def _named(cells: Sequence[ComparedCell]) -> Iterator[tuple[str, ComparedCell]]:
    """Yield the cells with a value in the head, under unique names that do not change between commits."""
    names = {(cell.cell_id, cell.arm): cell_name(cell) for cell in cells}
    count = Counter(names.values())
    for cell in cells:
        name = names[cell.cell_id, cell.arm]
        if cell.head is not None:
            yield (name if count[name] == 1 else f"{name} ({cell.cell_id})"), cell
