"""Cells and what is said of them as a list: for names that are too long for a table's column in a narrow terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import wrap

from rich.console import Console
from rich.text import Text

_INDENT = 2


@dataclass(frozen=True)
class Listing:
    """Lines under a caption; each note is said once, over all lines that it is of."""

    caption: str
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    """Note (empty: nothing is known) -> lines."""


def by_note(caption: str, items: Iterable[tuple[str, str | None]]) -> Listing:
    """``items``: line and note, in their order; lines of one note come together."""
    groups: dict[str, list[str]] = {}
    for line, note in items:
        groups.setdefault(note or "", []).append(line)
    ordered = sorted(groups.items(), key=lambda group: bool(group[0]))  # what has no note is not below one
    return Listing(caption, tuple((note, tuple(dict.fromkeys(lines))) for note, lines in ordered))


def print_listings(listings: Sequence[Listing], console: Console) -> None:
    """Wrapped at spaces, every line of a text under its beginning. Text of a run is never read as rich markup."""
    for listing in listings:
        console.print(Text(listing.caption, style="bold"))
        for note, lines in listing.groups:
            if note:
                _print_hanging(f"{note}:", console, indent=_INDENT, style="dim")
            for line in lines:
                _print_hanging(f"- {line}", console, indent=2 * _INDENT if note else _INDENT, hanging=2)
        console.print()


def _print_hanging(text: str, console: Console, *, indent: int, hanging: int = 0, style: str = "") -> None:
    first, later = " " * indent, " " * (indent + hanging)
    width = max(console.width, 2 * len(later))
    for line in wrap(text, width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False):
        console.print(Text(line, style=style))
