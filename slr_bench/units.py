"""Turns bytes, seconds, counts, names and foreign text into the words of a message, and sizes back into bytes.

Sources write GB and mean GiB; here every unit is binary and says so. No other module writes "MiB".
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Final, TypeGuard

KIB = 1024
MIB = 1024**2
GIB = 1024**3

CELL_LIMIT: Final = 300
"""Characters of foreign text (reasons, names) that a cell of a table shows."""

_CLOSE: Final = 0.5
"""Least similarity of a known name that is offered for an unknown one."""
_SIZE = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>B|[KMGT]i?B)\s*$", re.IGNORECASE)
_BARS = "▁▂▃▄▅▆▇█"
_FACTOR = {"b": 1, "k": KIB, "m": MIB, "g": GIB, "t": 1024 * GIB}


def format_bytes(count: float | None) -> str:
    """``29360128`` -> ``'28.0 MiB'``; an unknown count is ``'–'``, never 0."""
    if count is None:
        return "–"
    for unit, size, digits in (("TiB", 1024 * GIB, 2), ("GiB", GIB, 2), ("MiB", MIB, 1), ("KiB", KIB, 1)):
        if abs(count) >= size:
            return f"{count / size:.{digits}f} {unit}"
    return f"{count:.0f} B"


def format_seconds(seconds: float | None) -> str:
    """``0.0123`` -> ``'12.3 ms'``; ``75`` -> ``'1 min 15 s'``; an unknown time is ``'–'``."""
    if seconds is None:
        return "–"
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def format_value(value: float | None, unit: str) -> str:
    """Return a metric's value with its unit; an unknown value is ``'–'``, never 0."""
    if value is None:
        return "–"
    if unit == "bytes":
        return format_bytes(value)
    if unit == "s":
        return format_seconds(value)
    if unit == "ratio":
        return f"{100 * value:.{1 if abs(value) >= 0.1 else 2}f} %"
    if unit == "1":
        return f"{value:,.0f}" if value == int(value) else f"{value:.4g}"
    return f"{value:.4g} {unit}".replace(" 1/s", " /s")


def format_count(count: int, noun: str) -> str:
    """Return ``"one run"`` or ``"4 runs"``; the plural of the noun must end in s."""
    return f"one {noun}" if count == 1 else f"{count} {noun}s"


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a number. To Python a flag is a number, too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return the last ``width`` values as bars from 0 to their maximum: ``'▁▃▅█'``."""
    last = list(values)[-width:] if width > 0 else []
    top = max(last, default=0)
    return "".join(_BARS[min(len(_BARS) - 1, int(value / top * len(_BARS)))] if top > 0 else _BARS[0] for value in last)


def plain(text: object, limit: int = CELL_LIMIT) -> str:
    """Return foreign text as one line of at most ``limit`` characters, without control or escape characters."""
    raw = str(text)
    # Only ten times the limit is read, because a reason may be a log of many megabytes.
    line = " ".join(without_controls(raw[: 10 * limit]).split())
    return line if len(line) <= limit and len(raw) <= 10 * limit else line[: limit - 1] + "…"


def without_controls(text: str) -> str:
    """Return text in which escape, control and direction characters are spaces; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else " " for char in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'batch_size'?"``, or the list of known names if none is near."""
    known = sorted(known)
    return did_you_mean(name, known) or f"; known: {', '.join(known)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'batch_size'?"``, or nothing if no known name is near."""
    close = closest(name, sorted(known))
    return f"; did you mean {close!r}?" if close else ""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like ``name``; None if none is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=_CLOSE)), None)


def warn_in_one_line() -> None:
    """Print Python's warnings as one line for the user of a command, without the source line that raised them."""
    warnings.formatwarning = lambda message, *_: f"warning: {' '.join(str(message).split())}\n"


def parse_bytes(text: str) -> int:
    """``'6GiB'`` -> ``6442450944``. GB, MB and KB are read as GiB, MiB and KiB, as GPU makers mean them.

    Raises:
        ValueError: The unit or the number is missing.
    """
    match = _SIZE.match(text)
    if match is None:
        raise ValueError(f"size {text!r} has no unit or is not a number; write it like 6GiB or 512MiB")
    return int(float(match["number"]) * _FACTOR[match["unit"][0].lower()])
