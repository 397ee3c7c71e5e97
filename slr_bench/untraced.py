"""The operators that run in a step without a tracer.

Torch takes every tensor for a subclass while a dispatch mode is active, and a fake tensor always
(``areAnyTensorSubclassLike``). Then autograd writes into no tensor that it has just made: the gradient of ``x[ids]`` is
``zeros.index_put(...)`` instead of ``zeros.index_put_(...)``, and the second gradient of a tensor is added out of
place. Each of these costs one more tensor than the same step needs untraced. So a tracer runs the operator that
:class:`UntracedOperators` returns. ``tests/unit/trace/test_untraced.py`` compares with untraced runs.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Final, NamedTuple

import torch
from torch.autograd.graph import _engine_run_backward
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def _nodes(text: str) -> frozenset[str]:
    return frozenset(text.split())


_SELECTIONS: Final = _nodes(
    """
    KthvalueBackward0 MaxBackward0 MedianBackward1 MinBackward0 ModeBackward0 NanmedianBackward1 SortBackward0
    SortBackward1 TopkBackward0
    """
)
_COMPARISONS: Final = _nodes(
    """
    Atan2Backward0 ClampBackward0 ClampBackward1 ClampMaxBackward1 ClampMinBackward1 FmaxBackward0 FminBackward0
    MaximumBackward0 MinimumBackward0
    """
)
_ENTROPIES: Final = _nodes("BinaryCrossEntropyBackward0 BinaryCrossEntropyWithLogitsBackward0")
_ONE_OF_ALL: Final = _nodes("MaxBackward1 MedianBackward0 MinBackward1 NanmedianBackward0")
_ANYWHERE: Final = {
    aten.index_add.default: (aten.index_add_.default, _nodes("IndexSelectBackward0")),
    aten.index_fill.int_Tensor: (aten.index_fill_.int_Tensor, _nodes("TraceBackward0")),
    aten.index_put.default: (aten.index_put_.default, _nodes("IndexBackward0")),
    aten.logical_and.default: (aten.logical_and_.default, _ONE_OF_ALL),
    aten.masked_scatter.default: (aten.masked_scatter_.default, _nodes("MaskedSelectBackward0")),
    aten.put.default: (aten.put_.default, _nodes("TakeBackward0")),
    aten.scatter.src: (aten.scatter_.src, _SELECTIONS),
    aten.scatter_add.default: (aten.scatter_add_.default, _nodes("CummaxBackward0 CumminBackward0 GatherBackward0")),
}
_WITHOUT_GRAPH: Final = {
    aten.masked_fill.Scalar: (aten.masked_fill_.Scalar, _COMPARISONS),
    aten.mul.Tensor: (aten.mul_.Tensor, _ENTROPIES),
    aten.sub.Tensor: (aten.sub_.Tensor, _ENTROPIES),
}
"""Out of place also when untraced, if the backward pass builds a graph of its own (``create_graph``)."""
IN_PLACE: Final = _ANYWHERE | _WITHOUT_GRAPH
"""Operator -> the one that writes into its first argument, and the backward nodes that run that one untraced.

From ``derivatives.yaml`` and ``FunctionsManual.cpp`` of torch 2.14."""
_OWN_SUMS: Final = _nodes(
    """
    Atan2Backward0 CholeskyInverseBackward0 CholeskySolveBackward0 LinalgCholeskyExBackward0 LinalgDetBackward0
    LinalgLstsqBackward0 LinalgLuBackward0 LinalgLuFactorExBackward0 LinalgLuSolveBackward0 LinalgMatrixSqrthBackward0
    LinalgPinvBackward0 LinalgPolarBackward0 LinalgQrBackward0 LinalgSvdBackward0 Logaddexp2Backward0
    LogaddexpBackward0 LogcumsumexpBackward0 LuUnpackBackward0 NativeGroupNormBackward0 RenormBackward0
    SpecialEntrBackward0 SpecialI1EBackward0 SpecialLogNdtrBackward0 SpecialXlog1PyBackward0 StdMeanBackward0
    TriangularSolveBackward0 VarMeanBackward0
    """
)
"""Nodes that add two tensors of their own, out of place."""
_WATCHED: Final = frozenset[str]().union(_OWN_SUMS, *(nodes for _, nodes in IN_PLACE.values()))
_SUM: Final = aten.add.Tensor
_ENGINE: Final = _engine_run_backward.__code__


class UntracedOperators:
    """Finds the operator that autograd runs untraced. Pass it every operator of the step, in order."""

    def __init__(self) -> None:
        _references_of_owned()  # found now, because it costs operators of its own
        self._call: int | None = None
        self._made: dict[int, Any] = {}
        """Storage made in the call of the watched node -> the operator that made it."""

    def find(self, func: Any, args: tuple[Any, ...], node: Any) -> Any:
        """Return the operator to run instead of ``func`` in this autograd node; mostly ``func`` itself."""
        name = node.name()
        if func is _SUM:
            own = name in _OWN_SUMS and self._maker(args[0], node) is not None
            return aten.add_.Tensor if not own and _accumulates(args) else func
        in_place, nodes = IN_PLACE.get(func, (None, ()))
        if in_place is None or name not in nodes or (func in _WITHOUT_GRAPH and torch.is_grad_enabled()):
            return func
        maker = self._maker(args[0], node)
        return func if maker in (None, aten.neg.default) else in_place  # -x * gradient is always out of place

    def note(self, func: Any, tensors: list[torch.Tensor], node: Any) -> None:
        """Note what an operator made in this autograd node."""
        if node.name() in _WATCHED:
            if node._sequence_nr() != self._call:
                self._call = node._sequence_nr()
                self._made.clear()
            self._made |= {_storage(tensor): func for tensor in tensors}

    def _maker(self, tensor: torch.Tensor, node: Any) -> Any:
        return self._made.get(_storage(tensor)) if node._sequence_nr() == self._call else None


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else 0


def _accumulates(args: tuple[Any, ...]) -> bool:
    """Return whether the engine adds a gradient to an earlier one that belongs to it alone (``input_buffer.cpp``)."""
    frame = sys._getframe(3)
    if torch.is_grad_enabled() or (frame is not None and frame.f_code is not _ENGINE):
        return False
    first, second = args
    return (
        isinstance(second, torch.Tensor)
        and first.shape == second.shape
        and first.dtype == second.dtype
        and first.layout is torch.strided
        and _references(first) == _references_of_owned()
        and (first.is_contiguous() or _is_dense(first))
    )


def _is_dense(tensor: torch.Tensor) -> bool:
    """Return whether the elements lie side by side in some order of the dimensions."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


class _References(NamedTuple):
    """Reference counts of a tensor and of its storage, as seen in a dispatch mode."""

    tensor: int
    storage: int


def _references(tensor: torch.Tensor) -> _References:
    counted: Any = tensor
    return _References(counted._use_count(), torch._C._storage_Use_Count(tensor.untyped_storage()._cdata))


class _FirstSum(TorchDispatchMode):  # type: ignore[no-untyped-call]
    found: _References | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _SUM and torch._C._current_autograd_node() is not None:
            self.found = self.found or _references(args[0])
        return func(*args, **(kwargs or {}))


@functools.cache
def _references_of_owned() -> _References:
    """Observe the counts of a gradient that belongs to the engine alone; they depend on torch's version."""
    mode = _FirstSum()  # type: ignore[no-untyped-call]
    with torch.enable_grad(), mode:
        x = torch.zeros(1, requires_grad=True)
        y = x * 1
        (y.exp() + y.sin()).sum().backward()  # type: ignore[no-untyped-call]
    found: _References | None = mode.found
    assert found is not None, "the gradient of a tensor that is used twice is a sum"
    return found
