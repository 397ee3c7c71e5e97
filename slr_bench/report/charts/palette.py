"""The colours of a report: each a CSS variable with a light and a dark value."""

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
"""CSS variable -> colour of the light and of the dark theme. Pictures are drawn in the light ones, all different."""
# The last of them is near the grey of what is beaten: it is for those that have no colour of their own.
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
"""What bytes are -> their colour's variable."""
STEP_PHASES: Final = ("load", "forward", "backward", "optimizer")
"""What a step does, in shades of one ink beside the colours of the categories."""
OTHER: Final = "phase-5"


def light(variable: str) -> str:
    """The colour in the light theme, in which pictures are drawn."""
    return PALETTE[variable][0]


def arm_variable(place: int) -> str:
    """Of the n-th arm; they come round again after the last."""
    return ARMS[place % len(ARMS)]


def category_variable(name: str) -> str:
    """Of a category of bytes; one grey for those that are not known."""
    return CATEGORIES.get(name, OTHER)


def phase_shade(name: str) -> str:
    """Of a phase; the palest for those that are not known."""
    return f"shade-{STEP_PHASES.index(name) + 1 if name in STEP_PHASES else 0}"
