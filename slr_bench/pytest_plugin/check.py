"""Benchmarks against those of a saved run: what grew over its limit, what is missing, what does not compare."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from slr_bench.compare.cells import CellSummary
from slr_bench.compare.comparability import PairingKind, why_incomparable
from slr_bench.files import lookup
from slr_bench.pytest_plugin.fixture import Measurement, measurement_of
from slr_bench.pytest_plugin.limits import ByteLimit
from slr_bench.record import Metric, Outcome, Record
from slr_bench.run.store import CellEntry
from slr_bench.units import format_bytes, nearest, plain

Kind = Literal["equal", "less", "within", "more", "missing", "gone", "not comparable"]
_BROKEN: Final = frozenset({"more", "missing", "gone", "not comparable"})
_CURES: Final[dict[Kind, str]] = {
    "missing": "save a new baseline with --benchmark-save, or allow it with --benchmark-compare-allow-missing=PATTERN",
    "gone": "bring it back, save a new baseline without it (--benchmark-save), or allow it with "
    "--benchmark-compare-allow-missing=PATTERN",
    "not comparable": "measure the code to compare with in this environment: --benchmark-save",
}
_NAMED: Final = 20
"""Benchmarks named of which each has to be looked for."""
_MACHINE: Final = ("node", "system", "machine", "python_version", "cpu.brand_raw", "cpu.count")
"""Of pytest-benchmark's machine_info; the rest (clock frequency, flags) changes by the minute or says nothing."""


@dataclass(frozen=True)
class Finding:
    """What there is to say of a benchmark and a metric."""

    kind: Kind
    test: str
    text: str

    @property
    def is_broken(self) -> bool:
        """Whether it fails the session."""
        return self.kind in _BROKEN


def check(
    tests: Iterable[str],
    measured: Mapping[str, Measurement],
    baseline: Mapping[str, Any],
    limits: Sequence[ByteLimit],
    allowed: Sequence[str],
) -> Iterator[Finding]:
    """Every benchmark that ran against a saved run (test -> benchmark). What it lacks is missing unless a pattern of
    ``allowed`` names the test."""
    for test in tests:
        may_lack = is_allowed(test, allowed)
        if test not in baseline:
            if not may_lack:
                yield Finding("missing", test, f"not in the baseline{_moved(test, baseline, 'it')}")
            continue
        base = measurement_of(baseline[test])
        for limit in limits:
            if test not in measured:
                if limit.metric in base["metrics"]:
                    yield Finding("not comparable", test, f"the baseline has its {limit.metric}, this run has none")
            elif limit.metric in base["metrics"] or limit.metric not in measured[test]["metrics"]:
                yield _check(base, measured[test], limit)
            elif not may_lack:
                yield Finding("missing", test, f"the baseline has no {limit.metric} of it")


def check_gone(
    gone: Iterable[str], no_longer: Iterable[str], tests: Collection[str], allowed: Sequence[str]
) -> Iterator[Finding]:
    """Benchmarks of a saved run that no longer exist, and tests that passed and are none any more."""
    for test in gone:
        if not is_allowed(test, allowed):
            yield Finding("gone", test, f"in the baseline, and there is no such test now{_moved(test, tests, 'there')}")
    for test in no_longer:
        if not is_allowed(test, allowed):
            yield Finding("gone", test, "in the baseline, and the test measures nothing now")


def told(findings: Sequence[Finding]) -> Iterator[tuple[str, bool]]:
    """Lines, and whether each is bad news. Equal figures are counted; what is said of many benchmarks is one line."""
    others: dict[tuple[Kind, str], list[str]] = {}
    for finding in findings:
        if finding.kind != "equal":
            others.setdefault((finding.kind, finding.text), []).append(finding.test)
    for (kind, text), tests in others.items():
        named = tests[: _NAMED if kind in ("missing", "gone") else 1]
        more = f" and {len(tests) - len(named)} more" if len(tests) > len(named) else ""
        is_broken = kind in _BROKEN
        yield f"{'FAILED' if is_broken else kind} {', '.join(map(plain, named))}{more}: {plain(text)}", is_broken
    equal = sum(finding.kind == "equal" for finding in findings)
    yield f"{equal} equal, {len(findings) - equal} not", False
    kinds = {finding.kind for finding in findings}
    for broken, cure in _CURES.items():
        if broken in kinds:
            yield f"{broken}: {cure}", True
    if "less" in kinds and not kinds & _BROKEN:
        yield "less than the baseline: save a new one with --benchmark-save, so that it stays so", False


def is_allowed(test: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern (``*`` and ``?``; the brackets of a parametrized test are themselves) names the test."""
    return any(fnmatchcase(test, pattern.replace("[", "[[]")) for pattern in patterns)


def different_machine(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    """What tells two machines apart, in words; None if nothing does."""
    facts = ((name, lookup(now, name), lookup(then, name)) for name in _MACHINE)
    words = [f"{name} {after!r} against {before!r}" for name, after, before in facts if before != after]
    return ", ".join(words) or None


def _moved(test: str, others: Collection[str], who: Literal["it", "there"]) -> str:
    name = test.rpartition("::")[2]
    same = [other for other in others if other.rpartition("::")[2] == name]
    return f"; {'it has' if who == 'it' else 'there is'} {same[0]}" if len(same) == 1 else ""


def _check(base: Measurement, head: Measurement, limit: ByteLimit) -> Finding:
    test, metric = head["fullname"], limit.metric
    if metric not in head["metrics"]:
        known = nearest(metric, head["metrics"])
        return Finding("not comparable", test, f"{metric} was not measured{known}")
    try:
        before, after = _summary(base), _summary(head)
    except ValidationError as error:
        return Finding("not comparable", test, f"the baseline's metrics cannot be read: {_where(error)}")
    reason = why_incomparable(before, after, metric, PairingKind.APART)
    if reason is not None:
        return Finding("not comparable", test, reason)
    old, new = before.value(metric), after.value(metric)
    assert old is not None
    assert new is not None
    return _judged(test, limit, old, new)


def _judged(test: str, limit: ByteLimit, old: float, new: float) -> Finding:
    if new == old:
        return Finding("equal", test, f"{limit.metric} {format_bytes(new)}")
    growth = f"{(new - old) / old:+.3%}" if old else "from nothing"
    text = f"{limit.metric} {format_bytes(old)} -> {format_bytes(new)} ({new - old:+,.0f} bytes, {growth})"
    if new < old:
        return Finding("less", test, text)
    kind: Kind = "within" if limit.allows(old, new) else "more"
    return Finding(kind, test, f"{text}, limit {limit.text}")


def _summary(measured: Measurement) -> CellSummary:
    """The measurement as a run of one cell, so that what compares with what is decided in one place."""
    test = measured["fullname"]
    entry = CellEntry(cell_id=test, arm="", workload="pytest", setting={}, coordinates={}, is_own=True, repeats=1)
    record = Record(
        cell_id=test,
        repeat=0,
        workload=entry.workload,
        setting={},
        outcome=Outcome.OK,
        reason=None,
        environment=measured["environment"],
        metrics=TypeAdapter(dict[str, Metric]).validate_python(measured["metrics"]),
        phases={},
        started_at="",
        duration_s=0,
    )
    return CellSummary(entry, "a", (record,))


def _where(error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
