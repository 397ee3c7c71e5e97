"""The colours of a report. Each one is a CSS variable with a value for the light and for the dark theme."""

from __future__ import annotations

from typing import Final

PALETTE: Final = {
    "ink": ("#1f2933", "#e6ebf0"),
    "muted": ("#5f6c7b", "#9aa7b5"),
    "rule": ("#d9dee4", "#313b46"),
    "warn": ("#b45309", "#f5b454"),
    "arm-0": ("#2563eb", "#60a5fa"),
    "arm-1": ("#0d9488", "#2dd4bf"),
    "arm-2": ("#d97706", "#fbbf24"),
    "arm-3": ("#7c3aed", "#a78bfa"),
    "arm-4": ("#db2777", "#f472b6"),
    "arm-5": ("#64748b", "#94a3b8"),
    "phase-0": ("#3b82f6", "#60a5fa"),
    "phase-1": ("#f59e0b", "#fcd34d"),
    "phase-2": ("#10b981", "#34d399"),
    "phase-3": ("#ef4444", "#f87171"),
    "phase-4": ("#8b5cf6", "#c4b5fd"),
    "phase-5": ("#9ca3af", "#d1d5db"),
}
"""CSS variable -> colour in the light and in the dark theme. Files are drawn in the light colours; no two are equal."""
# The last arm colour is close to the grey of dominated cells: arms without a colour of their own share it.
ARMS: Final = tuple(name for name in PALETTE if name.startswith("arm"))

CATEGORIES: Final = {
    "parameter": "arm-5",
    "gradient": "arm-1",
    "optimizer state": "arm-2",
    "buffer": "arm-3",
    "input": "arm-4",
    "saved activation": "arm-0",
    "weight cast": "phase-4",
    "temporary": "phase-3",
    "held": "phase-2",
}
"""Category of bytes -> variable of its colour."""
OTHER: Final = "phase-5"
STEP_PHASES: Final = ("load", "forward", "backward", "optimizer")
"""Phases of a step. They are drawn in shades of the ink, because the colours belong to the categories."""
SHADES: Final = {f"shade-{place}": percent for place, percent in enumerate((14, 28, 46, 66, 88))}
"""Variable of a shade -> per cent of ink in it. The first shade is for phases that are not listed."""


def light(variable: str) -> str:
    """Return the colour of a variable in the light theme, in which files are drawn."""
    if variable in SHADES:
        ink, share = PALETTE["ink"][0], SHADES[variable] / 100
        return "#" + "".join(f"{round(255 - share * (255 - int(ink[at : at + 2], 16))):02x}" for at in (1, 3, 5))
    return PALETTE[variable][0]


def arm_variable(place: int) -> str:
    """Return the colour variable of the n-th arm. After the last colour the first one is used again."""
    return ARMS[place % len(ARMS)]


def category_variable(name: str) -> str:
    """Return the colour variable of a category of bytes; unknown categories share one grey."""
    return CATEGORIES.get(name, OTHER)


def phase_shade(name: str) -> str:
    """Return the shade of a phase; unknown phases share the palest one."""
    return f"shade-{STEP_PHASES.index(name) + 1 if name in STEP_PHASES else 0}"
