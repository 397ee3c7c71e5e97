"""Errors of predictions compared with a GPU, as figures and as a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final, NamedTuple

from slr_bench.units import format_bytes

KINDS: Final = ("requested", "allocated", "reserved", "nvml")
LEAST_SETTINGS: Final = 60
GROUPS: Final = {"all": (False, True), "looked at": (False,), "held out": (True,)}
COVERED: Final = (0.85, 0.95)
FAILED: Final = 0.01


class Limits(NamedTuple):
    """Limits of the relative error; None means no limit."""

    median: float
    p95: float | None


TARGETS: Final = {
    "requested": Limits(0.005, None),
    "allocated": Limits(0.01, 0.03),
    "reserved": Limits(0.02, 0.05),
    "nvml": Limits(0.02, None),
}

Row = Mapping[str, Any]


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Return errors and coverage by group and kind, runs limited to their prediction, and what was not measured."""
    groups = {name: [row for row in rows if row["held_out"] in held] for name, held in GROUPS.items()}
    return {
        "errors": {
            name: {kind: _errors(group, kind) for kind in KINDS} | {"capped": _failed(group)}
            for name, group in groups.items()
        },
        "settings": len(rows),
        "compared": sum(bool(row["measured"] and row["predicted"]) for row in rows),
        "verdicts_of_fit": _fits(rows),
    }


def percentile_95(values: Sequence[float]) -> float:
    """Return the smallest value that 95 % of the values do not exceed."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def _errors(rows: Sequence[Row], kind: str) -> dict[str, Any]:
    pairs = [
        (row["measured"][kind]["value"], row["predicted"][kind])
        for row in rows
        if row["measured"] and row["predicted"] and row["measured"][kind]["value"] is not None
    ]
    if not pairs:
        silent = [row["measured"][kind]["reason"] for row in rows if row["measured"]]
        return {"n": 0, "reason": next(iter(silent), None) or "no setting was measured and predicted"}
    signed = [estimate["value"] / measured - 1 for measured, estimate in pairs]
    errors = [abs(error) for error in signed]
    return {
        "n": len(pairs),
        "median": median(errors),
        "p95": percentile_95(errors),
        "worst": max(errors),
        "median_signed": median(signed),
        "covered": sum(estimate["low"] <= measured <= estimate["high"] for measured, estimate in pairs) / len(pairs),
        "sources": sorted({row["measured"][kind]["source"] for row in rows if row["measured"]} - {None}),
    }


def _failed(rows: Sequence[Row]) -> dict[str, Any]:
    """Summarise the runs that were limited to their prediction."""
    tried = [row["capped"] for row in rows if row["capped"] is not None]
    ended = [one for one in tried if one["out_of_memory"] is not None]
    failed = sum(one["out_of_memory"] for one in ended)
    other = [one["reason"] for one in tried if one["out_of_memory"] is None]
    share = failed / len(ended) if ended else None
    return {"n": len(ended), "failed": failed, "share": share, "ended_otherwise": other}


def _fits(rows: Sequence[Row]) -> dict[str, int]:
    """Count the predicted verdicts by what happened on the card."""
    found: dict[str, int] = {}
    for row in rows:
        if row["predicted"] and row["outcome"] in ("ok", "oom_gpu"):
            said = {True: "fits", False: "does not fit", None: "may fit"}[row["fits"]]
            name = f"{said}: {'ran' if row['outcome'] == 'ok' else 'out of memory'}"
            found[name] = found.get(name, 0) + 1
    return found


def page(results: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    found = results["summary"]
    environment = results["environment"]
    names = [f"{name} {environment[name]}" for name in ("torch", "cuda", "driver") if environment.get(name)]
    parts = [
        "# Predictions compared with a GPU",
        f"{environment['gpu']}, {', '.join(names)}. Predicted for `{results['device']}`, "
        f"{'calibrated on ' + results['calibration'] if results['calibration'] else 'by rules, not calibrated'}. "
        f"{found['settings']} settings of `configs/predict_grid.yml`, {found['compared']} measured and predicted; half "
        "are held out, by a hash. Error: |predicted / measured − 1|.",
        _verdicts(found),
        *(_group(name, errors) for name, errors in found["errors"].items()),
        _verdicts_of_fit(found["verdicts_of_fit"]),
        _left_out(results["settings"]),
        _each(results["settings"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdicts(found: Mapping[str, Any]) -> str:
    """Return the targets and results, for the held-out settings and for all."""
    rows = []
    for name in ("held out", "all"):
        errors = found["errors"][name]
        for kind, limits in TARGETS.items():
            one = errors[kind]
            rows.append((name, f"{kind}: median ≤ {_percent(limits.median)}", *_met(one, "median", limits.median)))
            if limits.p95 is not None:
                rows.append((name, f"{kind}: 95 % of errors ≤ {_percent(limits.p95)}", *_met(one, "p95", limits.p95)))
            target = f"{kind}: interval covers {_percent(COVERED[0])} to {_percent(COVERED[1])}"
            inside = one["n"] and COVERED[0] <= one["covered"] <= COVERED[1]
            rows.append((name, target, *_answer(one, "covered", bool(inside))))
        capped = errors["capped"]
        target = f"runs held to the prediction + 3 % that fail ≤ {_percent(FAILED)}"
        is_met = capped["n"] and capped["share"] <= FAILED
        rows.append((name, target, *_answer(capped, "share", bool(is_met))))
    enough = "yes" if found["compared"] >= LEAST_SETTINGS else "**no**"
    rows.append(("all", f"settings ≥ {LEAST_SETTINGS}", str(found["compared"]), enough))
    return _table(("settings", "target", "result", "met"), rows)


def _met(one: Mapping[str, Any], name: str, limit: float) -> tuple[str, str]:
    return _answer(one, name, bool(one["n"] and one[name] <= limit))


def _answer(one: Mapping[str, Any], name: str, is_met: bool) -> tuple[str, str]:
    if not one["n"]:
        return f"not measured ({one.get('reason') or 'no run ended'})", "–"
    return f"{_percent(one[name])} of {one['n']}", "yes" if is_met else "**no**"


def _group(name: str, errors: Mapping[str, Any]) -> str:
    rows = [
        (kind, one["n"], *(_percent(one[key]) for key in ("median", "p95", "worst", "median_signed", "covered")))
        for kind, one in errors.items()
        if kind != "capped" and one["n"]
    ]
    if not rows:
        return ""
    head = ("", "settings", "median error", "95 % below", "worst", "median, signed", "in the interval")
    return f"## Settings: {name}\n\n{_table(head, rows)}"


def _verdicts_of_fit(verdicts: Mapping[str, int]) -> str:
    if not verdicts:
        return ""
    lines = _table(("predicted: happened", "settings"), sorted(verdicts.items()))
    return f"## Whether it fits this card\n\n{lines}"


def _left_out(rows: Sequence[Row]) -> str:
    lost = [row for row in rows if not (row["measured"] and row["predicted"])]
    lines = [f"- `{row['cell_id']}`: {row['outcome']}, {row['reason'] or 'no reason was given'}" for row in lost]
    lines += [
        f"- `{row['cell_id']}` under its prediction: {row['capped']['reason']}"
        for row in rows
        if row["capped"] and row["capped"]["reason"]
    ]
    return "## Not compared\n\n" + "\n".join(lines) if lines else ""


def _each(rows: Sequence[Row]) -> str:
    shown = []
    for row in rows:
        if not (row["measured"] and row["predicted"]):
            continue
        figures = [
            _measured_and_error(row["measured"][kind]["value"], row["predicted"][kind]["value"]) for kind in KINDS
        ]
        capped = row["capped"]["out_of_memory"] if row["capped"] else None
        end = {None: "not run", False: "ran", True: "out of memory"}[capped]
        values = " · ".join(map(str, row["coordinates"].values()))
        shown.append((values, "held out" if row["held_out"] else "", *figures, end))
    head = ("setting", "", *(f"{kind}, measured" for kind in KINDS), "held to the prediction + 3 %")
    return f"## Each setting\n\nMeasured, and how far the prediction is off.\n\n{_table(head, shown)}" if shown else ""


def _measured_and_error(measured: float | None, value: float) -> str:
    return "–" if measured is None else f"{format_bytes(round(measured))} ({100 * (value / measured - 1):+.1f} %)"


def _percent(value: float) -> str:
    return f"{100 * value:.2f}".rstrip("0").rstrip(".") + " %"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
