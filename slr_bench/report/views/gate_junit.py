"""The gate's answer as JUnit XML: valid against the Ant schema (windyroad) and that of Jenkins' xUnit plugin."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal
from xml.etree import ElementTree

from slr_bench.compare.gate import CellVerdict, GateResult, RuleResult
from slr_bench.report.text.words import format_value, plain
from slr_bench.report.views.compare import title
from slr_bench.report.views.compare_words import cell_name, change_text
from slr_bench.report.views.gate_words import headline

_CELLS: Final = "cells"
_DECLARATION: Final = '<?xml version="1.0" encoding="UTF-8"?>'
State = Literal["", "failure", "error", "skipped"]


@dataclass(frozen=True)
class _Case:
    name: str
    classname: str
    state: State = ""
    message: str = ""


def gate_junit(result: GateResult, now: datetime.datetime | None = None) -> str:
    """A test suite a rule with a test case a cell, and a suite of the cells: missing, out of memory, crashed."""
    root = ElementTree.Element("testsuites")
    stamp = _stamp(now)
    suites = [(plain(one.rule.text, 80), _rule_cases(one)) for one in result.rules]
    about = {"compared": title(result.comparison), "verdict": headline(result)}
    for number, (name, cases) in enumerate([*suites, (_CELLS, _end_cases(result))]):
        root.append(_suite(number, name, cases, stamp, about))
    return _document(root)


def no_verdict_junit(text: str, now: datetime.datetime | None = None) -> str:
    """One test case that is an error: the gate ended without a verdict."""
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
        found.append(_Case(cell_name(cell.row), _class(cell), state, _message(cell)))
    return found


def _class(cell: CellVerdict) -> str:
    return plain(f"slr_bench.gate.{cell.row.metric}", 120)


def _message(cell: CellVerdict) -> str:
    row = cell.row
    values = f"{format_value(row.base, row.unit)} -> {format_value(row.head, row.unit)} ({change_text(row)})"
    reason = cell.reason or row.reason
    return plain(f"{row.metric}: {values}" + (f"; {reason}" if reason else ""))


def _end_cases(result: GateResult) -> list[_Case]:
    bad: Iterable[tuple[str, str, str]] = (
        *((cell.cell_id, cell.arm, f"missing in the head: {cell.reason or 'no such cell'}") for cell in result.missing),
        *((cell.cell_id, cell.arm, f"out of memory in the head: {cell.reason}") for cell in result.no_longer),
    )
    failures = {(cell_id, arm): reason for cell_id, arm, reason in bad}
    errors = {(cell.cell_id, cell.arm): f"crashed in the head: {cell.reason}" for cell in result.comparison.crashed}
    allowed = {(cell.cell_id, cell.arm): "missing in the head, which is allowed" for cell in result.allowed}
    found = []
    states: list[tuple[State, dict[tuple[str, str], str]]] = [
        ("failure", failures),
        ("error", errors),
        ("skipped", allowed),
    ]
    for ends in result.comparison.outcomes:
        key = (ends.cell_id, ends.arm)
        case = _Case(cell_name(ends), f"slr_bench.gate.{_CELLS}")
        hit = next(((state, known[key]) for state, known in states if key in known), None)
        found.append(_Case(case.name, case.classname, hit[0], plain(hit[1])) if hit else case)
    return found
