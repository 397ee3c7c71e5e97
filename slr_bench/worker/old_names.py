"""Keeps the old names of this package importable for older source trees.

``slr-bench gate OLD HEAD`` measures the workloads of an old tree with this package. Their code imports names from where
they were then. A process that imports such a tree has `OLD_NAMES_VARIABLE` in its environment. It calls `install`
before it imports the tree. No other process accepts the old names.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Final

NEW_PLACES: Final[Mapping[str, Mapping[str, str]]] = {
    "slr_bench.errors": {
        "checked": "slr_bench.grid.yaml_files:validate",
        "did_you_mean": "slr_bench.units:did_you_mean",
        "nearest": "slr_bench.units:nearest",
        "read_yaml": "slr_bench.grid.yaml_files:read_yaml",
        "warn_in_one_line": "slr_bench.units:warn_in_one_line",
        "why_unreadable": "slr_bench.files:why_unreadable",
    },
    "slr_bench.probes.thresholds": {
        "LEVELS": "slr_bench.probes.host:LEVELS",
        "Level": "slr_bench.probes.host:Level",
        "Thresholds": "slr_bench.probes.host:Thresholds",
    },
}
"""Old module -> old name -> ``module:name`` today. Extend it when a name moves that models or workloads import."""


def install(places: Mapping[str, Mapping[str, str]] = NEW_PLACES) -> None:
    """Let each old module find its old names; nothing is imported before it is needed.

    A module that still exists keeps what it has. One that is gone is made anew, with the old names alone.
    """
    for module_name, names in places.items():
        if find_spec(module_name) is None:
            module = ModuleType(module_name, "Names of an older version of this package.")
            sys.modules[module_name] = module
            parent_name, _, name = module_name.rpartition(".")
            setattr(import_module(parent_name), name, module)
        else:
            module = import_module(module_name)
        module.__dict__["__getattr__"] = _finder(module_name, names)


def _finder(module_name: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a module, which Python calls for names that the module does not have."""

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module_name!r} has no attribute {name!r}")
        place, _, new_name = names[name].partition(":")
        return getattr(import_module(place), new_name)

    return find
