"""Compares benchmarks with those of a saved run, and reports growth over a limit and benchmarks that are missing."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Any, Final, Literal, TypedDict

from pydantic import JsonValue, TypeAdapter, ValidationError

from slr_bench.compare.cells import CellSummary
from slr_bench.compare.comparability import PairingKind, why_incomparable
from slr_bench.compare.rules import Limit, parse_limit
from slr_bench.errors import ConfigError
from slr_bench.files import lookup
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
_MOST_NAMES: Final = 20
"""Names to print if the reader must look for each benchmark."""
_MACHINE: Final = ("node", "system", "machine", "python_version", "cpu.brand_raw", "cpu.count")
"""Keys of pytest-benchmark's machine_info that identify a machine. Others, like the clock frequency, change."""
METRICS, ENVIRONMENT = "metrics", "environment"
"""Keys of ``extra_info``."""
_EXAMPLE: Final = "write it like peak_tensor_bytes:0% or peak_tensor_bytes:1MiB"


class Measurement(TypedDict):
    """The bytes that a test measured, as JSON values for ``extra_info`` and for the reports of other processes."""

    fullname: str
    metrics: dict[str, dict[str, JsonValue]]
    environment: dict[str, JsonValue]


@dataclass(frozen=True)
class ByteLimit:
    """A metric and the limit of its growth. It ignores noise, because a session measures each benchmark once."""

    metric: str
    limit: Limit
    text: str
    """The limit as the user wrote it, without the metric."""

    def allows(self, base: float, head: float) -> bool:
        """Return whether the growth from ``base`` to ``head`` is within the limit. ``0%`` allows not one byte more."""
        growth = Fraction(head) - Fraction(base)
        if self.limit.kind == "percent":
            return 100 * growth <= self.limit.amount * Fraction(base)
        return growth <= self.limit.amount


def parse_byte_limit(text: str) -> ByteLimit:
    """Read ``METRIC:LIMIT`` with the limits of ``slr-bench gate``.

    Raises:
        ConfigError: There is no metric, or the limit is neither a percentage nor a size with its unit.
    """
    metric, colon, amount = (part.strip() for part in text.partition(":"))
    where = repr(plain(text))
    if not colon or not metric.isidentifier():
        raise ConfigError(f"{where} is not METRIC:LIMIT; {_EXAMPLE}")
    limit = parse_limit(amount, where)
    if limit.kind not in ("percent", "bytes"):
        raise ConfigError(f"{where}: the limit of bytes is a percentage or a size, not in {limit.kind}; {_EXAMPLE}")
    return ByteLimit(metric, limit, amount)


@dataclass(frozen=True)
class Finding:
    """The result of the comparison of one benchmark and one metric."""

    kind: Kind
    test: str
    text: str

    @property
    def is_broken(self) -> bool:
        """True if the finding makes the session fail."""
        return self.kind in _BROKEN


def check(
    tests: Iterable[str],
    measured: Mapping[str, Measurement],
    baseline: Mapping[str, Any],
    limits: Sequence[ByteLimit],
    allowed: Sequence[str],
) -> Iterator[Finding]:
    """Compare every benchmark that ran with the saved run ``baseline`` (test -> benchmark).

    A benchmark that the saved run lacks is missing, unless a pattern of ``allowed`` matches the test.
    """
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
    """Report benchmarks of a saved run whose tests no longer exist or, though they passed, no longer measure."""
    for test in gone:
        if not is_allowed(test, allowed):
            yield Finding("gone", test, f"in the baseline, and there is no such test now{_moved(test, tests, 'there')}")
    for test in no_longer:
        if not is_allowed(test, allowed):
            yield Finding("gone", test, "in the baseline, but the test no longer measures")


def finding_lines(findings: Sequence[Finding]) -> Iterator[tuple[str, bool]]:
    """Yield lines, and for each whether it reports a failure.

    Equal benchmarks are counted. Benchmarks with the same finding share a line.
    """
    others: dict[tuple[Kind, str], list[str]] = {}
    for finding in findings:
        if finding.kind != "equal":
            others.setdefault((finding.kind, finding.text), []).append(finding.test)
    for (kind, text), tests in others.items():
        names = tests[: _MOST_NAMES if kind in ("missing", "gone") else 1]
        more = f" and {len(tests) - len(names)} more" if len(tests) > len(names) else ""
        is_broken = kind in _BROKEN
        yield f"{'FAILED' if is_broken else kind} {', '.join(map(plain, names))}{more}: {plain(text)}", is_broken
    equal = sum(finding.kind == "equal" for finding in findings)
    yield f"{equal} equal, {len(findings) - equal} not", False
    kinds = {finding.kind for finding in findings}
    for broken, cure in _CURES.items():
        if broken in kinds:
            yield f"{broken}: {cure}", True
    if "less" in kinds and not kinds & _BROKEN:
        yield (
            "less than the baseline: save a new one with --benchmark-save, which makes the smaller value the limit",
            False,
        )


def is_allowed(test: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern with ``*`` and ``?`` matches the test. Brackets in it match themselves."""
    return any(fnmatchcase(test, pattern.replace("[", "[[]")) for pattern in patterns)


def different_machine(now: Mapping[str, Any], then: Mapping[str, Any]) -> str | None:
    """Return the differences between two machines; None if there are none."""
    facts = ((name, lookup(now, name), lookup(then, name)) for name in _MACHINE)
    words = [f"{name} {after!r} against {before!r}" for name, after, before in facts if before != after]
    return ", ".join(words) or None


def _moved(test: str, others: Collection[str], owner: Literal["it", "there"]) -> str:
    name = test.rpartition("::")[2]
    same = [other for other in others if other.rpartition("::")[2] == name]
    return f"; {'it has' if owner == 'it' else 'there is'} {same[0]}" if len(same) == 1 else ""


def _check(base: Measurement, head: Measurement, limit: ByteLimit) -> Finding:
    test, metric = head["fullname"], limit.metric
    if metric not in head["metrics"]:
        known = nearest(metric, head["metrics"])
        return Finding("not comparable", test, f"{metric} was not measured{known}")
    try:
        before, after = _summary(base), _summary(head)
    except ValidationError as error:
        return Finding("not comparable", test, f"the baseline's metrics cannot be read: {_location(error)}")
    reason = why_incomparable(before, after, metric, PairingKind.APART)
    if reason is not None:
        return Finding("not comparable", test, reason)
    old, new = before.value(metric), after.value(metric)
    assert old is not None
    assert new is not None
    return _judge(test, limit, old, new)


def _judge(test: str, limit: ByteLimit, old: float, new: float) -> Finding:
    if new == old:
        return Finding("equal", test, f"{limit.metric} {format_bytes(new)}")
    growth = f"{(new - old) / old:+.3%}" if old else "from nothing"
    text = f"{limit.metric} {format_bytes(old)} -> {format_bytes(new)} ({new - old:+,.0f} bytes, {growth})"
    if new < old:
        return Finding("less", test, text)
    kind: Kind = "within" if limit.allows(old, new) else "more"
    return Finding(kind, test, f"{text}, limit {limit.text}")


def _summary(measured: Measurement) -> CellSummary:
    """Return the measurement as a run of one cell, whose rules of comparison then apply."""
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


def _location(error: ValidationError) -> str:
    item = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, item['loc']))}: {item['msg']}"


def measurement_of(benchmark: Mapping[str, Any]) -> Measurement:
    """Return the measurement of a saved benchmark; it has no metrics if the test did not use ``memory_benchmark``."""
    extra = benchmark.get("extra_info", {})
    return {
        "fullname": benchmark["fullname"],
        "metrics": extra.get(METRICS, {}),
        "environment": extra.get(ENVIRONMENT, {}),
    }
