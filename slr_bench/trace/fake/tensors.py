"""Fake tensors: shapes and types without contents, so that a step can be traced with no data and no GPU."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode

from slr_bench.errors import UnsupportedSettingError
from slr_bench.trace.owners import OWN_SOURCE

_TORCH = f"{Path(torch.__file__).parent}/"
_MIXED = "Please convert all Tensors to FakeTensors first"
_ON_REAL_TENSORS = "trace real tensors: slr-bench profile without --fake"
_RANDOM = (torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default)
_TABLES = ("_parameters", "_buffers", "_modules")


class _Unfilled(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Write zeros instead of random numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].zero_() if func in _RANDOM else func(*args, **(kwargs or {}))


def unfilled() -> TorchDispatchMode:
    """Return a mode in which weights are initialised with zeros.

    Drawing random weights is a tenth of the time for a model that then gets fake tensors.
    """
    return _Unfilled()  # type: ignore[no-untyped-call]


def swap_for_fake(module: torch.nn.Module, mode: FakeTensorMode) -> torch.nn.Module:
    """Replace every tensor of a really built module by its fake twin, shared ones staying shared.

    Building inside the fake mode fails for many models (``trunc_normal_``, ``copy.deepcopy``); swapping works for all.
    Tensors that a module holds as plain attributes, also in lists, tuples and dicts, are swapped with the registered.

    Raises:
        UnsupportedSettingError: a lazily created parameter has no shape yet.
    """
    twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for path, owner in module.named_modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    if is_lazy(tensor):
                        raise UnsupportedSettingError(
                            f"{'.'.join(filter(None, (path, name)))} has no shape before the first forward pass, fake "
                            "tensors need one; give the sizes, or run a forward pass when building"
                        )
                    table[name] = _twin(tensor, mode, twins)
        for name, value in vars(owner).items():
            if name not in _TABLES:
                vars(owner)[name] = _swapped(value, mode, twins)
    return module


def _twin(tensor: torch.Tensor, mode: FakeTensorMode, twins: dict[int, Any]) -> torch.Tensor:
    """Return the one twin of a tensor; the original is kept beside it, so that no other tensor gets its id."""
    if id(tensor) not in twins:
        fake: torch.Tensor = mode.from_tensor(tensor.detach())
        if isinstance(tensor, torch.nn.Parameter):
            fake = torch.nn.Parameter(fake, tensor.requires_grad)
        elif tensor.is_leaf:
            fake.requires_grad_(tensor.requires_grad)
        twins[id(tensor)] = (tensor, fake)
    return twins[id(tensor)][1]  # type: ignore[no-any-return]


def _swapped(value: Any, mode: FakeTensorMode, twins: dict[int, Any]) -> Any:
    if isinstance(value, torch.Tensor):
        return _twin(value, mode, twins)
    if type(value) in (list, tuple) and _holds_tensor(value):
        return type(value)(_swapped(item, mode, twins) for item in value)
    if type(value) is dict and _holds_tensor(value.values()):
        return {key: _swapped(item, mode, twins) for key, item in value.items()}
    return value


def _holds_tensor(values: Any) -> bool:
    """Return whether a container has tensors and must be copied; others keep their identity."""
    return any(
        isinstance(value, torch.Tensor)
        or (isinstance(value, (list, tuple)) and _holds_tensor(value))
        or (isinstance(value, dict) and _holds_tensor(value.values()))
        for value in values
    )


@contextmanager
def refusals_explained() -> Iterator[None]:
    """Turn the errors of fake tensors into ``UnsupportedSettingError``.

    Raises:
        UnsupportedSettingError: one line with the operator, the source line and the cure.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        known = explained(error)
        if known is None:
            raise
        raise known from error


def explained(error: BaseException) -> UnsupportedSettingError | None:
    """Return the error explained in one line, or None if it has nothing to do with fake tensors."""
    if isinstance(error, (DataDependentOutputException, DynamicOutputShapeException)):
        text = f"operator {error.func} needs the contents of a tensor, fake tensors have none"
        cure = f"keep it out of the step, or {_ON_REAL_TENSORS}"
    elif isinstance(error, UnsupportedOperatorException):
        text, cure = f"operator {error.func} has no fake kernel", "register one with torch.library.register_fake"
    elif isinstance(error, AssertionError) and _MIXED in str(error):
        operator = str(error).partition("Found in ")[2].partition("(")[0] or "unknown"
        text = f"operator {operator} was given a real tensor among fake ones"
        cure = "hold it as an attribute or buffer of the module that is placed, or make it inside the step"
    elif isinstance(error, RuntimeError) and "NestedTensorImpl" in str(error):
        text = "a nested tensor has no fake twin (nn.TransformerEncoder makes one of a padding mask in inference)"
        cure = f"build nn.TransformerEncoder with enable_nested_tensor=False, or {_ON_REAL_TENSORS}"
    else:
        return None
    return UnsupportedSettingError(f"{text} ({place_of(error)}); {cure}")


def place_of(error: BaseException) -> str:
    """Return the innermost line of code outside torch and the tracer, without its path: records carry none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((_TORCH, *OWN_SOURCE)):
            return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
    return "no line known"
