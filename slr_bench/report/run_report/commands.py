"""The commands that make a run's figures again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from slr_bench.report.text.words import plain

LIMIT: Final = 2000
DEFAULT_DIRECTORY: Final = "reports/latest"


def again(command: str, arms: Sequence[str]) -> str:
    """Lines of a shell: all of it, one arm under the profiler, and the report. Of a command that is no ``slr-bench
    run`` only that line.
    """
    first = plain(command, LIMIT)
    try:
        words = shlex.split(command)
    except ValueError:
        return first
    if words[:2] != ["slr-bench", "run"] or len(words) < 3 or words[2].startswith("-"):
        return first
    config, out = words[2], DEFAULT_DIRECTORY
    for word, following in zip(words, [*words[1:], ""], strict=True):
        out = following if word == "--out" else word.removeprefix("--out=") if word.startswith("--out=") else out
    fake = " --fake" if "--fake" in words else ""
    lines = [(first, "measure it")]
    if arms:
        profile = f"slr-bench profile {shlex.quote(config)} --arm {shlex.quote(arms[-1])}{fake}"
        lines.append((plain(profile, LIMIT), "every byte of one step, by tensor"))
    lines.append((plain(f"slr-bench report {shlex.quote(out)}", LIMIT), "this report"))
    return "\n".join(f"{line}  # {what}" for line, what in lines)
