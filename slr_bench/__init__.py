"""Measures the memory, time and accuracy of training steps, cell by cell, in processes of their own.

The functions and results of :mod:`slr_bench.api` are available here, imported at first use: ``slr_bench.plan(...)``.
Three of the functions have the names of packages. So ``slr_bench.run``, ``slr_bench.predict`` and
``slr_bench.compare`` are packages that can be called.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any, Final

from slr_bench.startup import BENCH, require_packages

require_packages(__name__, BENCH)

__version__ = "0.1.0"
_PACKAGES: Final = ("compare", "predict", "run")
_NAMES: Final = (
    *("calibrate", "gate", "plan", "profile", "replay", "watch"),
    *("CompareOptions", "Plan", "PlanOptions", "Prediction", "Profile", "RunOptions", "RunResult"),
)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name in _NAMES:
        return getattr(import_module(f"{__name__}.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PACKAGES, *_NAMES])


class CallablePackage(ModuleType):
    """A package that calls the function of the Python interface that has its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        function = getattr(import_module("slr_bench.api"), self.__name__.rpartition(".")[2])
        return function(*arguments, **options)
