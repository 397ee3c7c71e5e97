"""Where in the source a tensor was made: the nearest line that is neither torch's nor the tracer's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

_TORCH = str(Path(torch.__file__).parent)  # the prefix of torchvision's directory too, and so passed over
_TRACE = Path(__file__).parent
OWN_SOURCE = (f"{_TRACE}/", str(_TRACE.with_name("live_bytes.py")))
"""Source files of the tracer: no tensor of the step is made there."""
_ENGINE = "_engine_run_backward"

_places: dict[str, str | None] = {}
"""File name -> how it is shown; None for files that are passed over."""


def origin(node: Any) -> str:
    """``models/networks/backbone.py:88``; in backward the node's name, unless Python code runs in it."""
    frame = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if node is not None and code.co_name == _ENGINE:
            name: str = node.name()
            return name
        place = _places.get(code.co_filename, "")
        if place == "":
            place = _places[code.co_filename] = _place(code.co_filename)
        if place is not None:
            return f"{place}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "unknown"


def _place(file: str) -> str | None:
    """Relative to where Python found it, so that no path of a machine is shown."""
    if file.startswith((_TORCH, *OWN_SOURCE, "<")):
        return None
    inside = [entry for entry in sys.path if entry and file.startswith(entry.rstrip("/") + "/")]
    return file[len(max(inside, key=len).rstrip("/")) + 1 :] if inside else Path(file).name
