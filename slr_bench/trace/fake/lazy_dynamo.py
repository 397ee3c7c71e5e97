"""Load torch's compiler on first use instead of with fake tensors. Import this before any other module of torch.

``FakeTensorMode`` reads a setting of ``torch._dynamo`` and so imports all of it, which takes one of a prediction's few
seconds for nothing. Here the package is a shell: its submodules can be imported, and any other attribute loads all of
it. The two functions that optimizers and checkpoints call in every step do nothing outside compiled code, so they load
nothing. ``torch.compile`` returns its argument: compiled code cannot be traced, but its source can.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch

_NAME = "torch._dynamo"


class _Shell(ModuleType):
    """The package before it is loaded."""

    def __getattr__(self, name: str) -> Any:
        spec = self.__spec__
        if name.startswith("__") or spec is None or spec.loader is None:
            raise AttributeError(name)
        if find_spec(f"{_NAME}.{name}") is not None:
            return import_module(f"{_NAME}.{name}")
        self.__class__ = ModuleType  # type: ignore[assignment]
        spec.loader.exec_module(self)
        return getattr(self, name)


def _nothing(*arguments: object, **options: object) -> None:
    """Do nothing: outside compiled code there is no graph to break."""


def _identity(function: Any = None, *arguments: object, **options: object) -> Any:
    """Return the function unchanged, as nothing is compiled here."""
    return function if function is not None else _identity


def _install() -> None:
    if _NAME in sys.modules:
        return
    spec = find_spec(_NAME)
    assert spec is not None
    shell = _Shell(_NAME)
    shell.__spec__, shell.__path__, shell.__file__ = spec, list(spec.submodule_search_locations or ()), spec.origin
    vars(shell).update(graph_break=_nothing, disable=_identity)
    sys.modules[_NAME] = shell
    vars(torch).update(_dynamo=shell, compile=_identity)


_install()
