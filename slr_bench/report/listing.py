"""Cells and what is said of them as a list: for names that are too long for a table's column in a narrow terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
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
    return Listing(caption, tuple((note, tuple(dict.fromkeys(lines))) for note, lines in groups.items()))


def print_listings(listings: Sequence[Listing], console: Console) -> None:
    """Wrapped at spaces, every line of a text under its beginning. Text of a run is never read as rich markup."""
    for listing in listings:
        console.print(Text(listing.caption, style="bold"))
        for note, lines in listing.groups:
            if note:
                console.print(Padding(Text(f"{note}:", style="dim"), (0, 0, 0, _INDENT), expand=False))
            for line in lines:
                bullet = Text(f"- {line}")
                console.print(Padding(bullet, (0, 0, 0, 2 * _INDENT if note else _INDENT), expand=False))
        console.print()
