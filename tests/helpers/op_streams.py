"""Compares a fake trace of a step with a real one, and finds the first operator that differs.

``python tests/helpers/op_streams.py PART_OF_A_CASE_ID ...`` prints the first divergence of the matching cases.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from slr_bench.live_bytes import LiveBytes
from slr_bench.trace.fake.tensors import CpuFakeMode

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Op:
    """The properties of an operator that two traces of one step must share."""

    name: str
    outputs: tuple[str, ...]
    """Type, shape and storage bytes of each returned tensor."""
    live_bytes: int
    """Live bytes after the operator."""
    inputs: tuple[str, ...] = field(compare=False, default=())

    def __str__(self) -> str:
        return f"{self.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}; live {self.live_bytes} B"


class OpStream(TorchDispatchMode):
    """Records every operator that the tracer below it observes. Enter it inside the tracer."""

    def __init__(self, tracer: LiveBytes) -> None:
        super().__init__()
        self._tracer = tracer
        self.ops: list[Op] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _described((args, kwargs))
        made = func(*args, **(kwargs or {}))
        if func.namespace != "prim":  # a fake tensor looks its device up through the dispatcher
            self.ops.append(Op(str(func), _described(made), self._tracer.live_bytes, inputs))
        return made


@dataclass(frozen=True)
class Trace:
    """The result of one traced step."""

    peak_bytes: int
    peak_by_phase: Mapping[str, int]
    ops: Sequence[Op]


def traced(work: Any, mode: contextlib.AbstractContextManager[Any] | None, with_ops: bool = False) -> Trace:
    """Trace one steady step of ``work``, which has ``warm_up``, ``step`` and ``tensors``."""
    with mode or contextlib.nullcontext():
        work.warm_up()
        gc.collect()
        tracer = LiveBytes(CPU, work.tensors(), fake=mode is not None)
        work.phase = tracer.phase
        stream = OpStream(tracer)
        with tracer, stream if with_ops else contextlib.nullcontext():
            work.step()
    return Trace(tracer.peak_bytes, dict(tracer.peak_by_phase), stream.ops)


def first_divergence(real: Sequence[Op], fake: Sequence[Op]) -> str | None:
    """Describe the first operator that differs and the one before it; return None if the traces are equal."""
    for number, (one, other) in enumerate(itertools.zip_longest(real, fake)):
        if one != other:
            before = real[number - 1] if number else None
            return f"operator {number}, after {before}\n  real: {one}\n  fake: {other}"
    return None


def _described(value: Any) -> tuple[str, ...]:
    tensors = [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, torch.Tensor)]
    return tuple(
        f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}/{t.untyped_storage().nbytes()}B" for t in tensors
    )


def main(parts: Sequence[str], fake_mode: Callable[[], Any] = CpuFakeMode) -> None:
    """Print the first divergence of every case whose id holds one of ``parts``."""
    import zoo

    torch.set_num_threads(1)
    for case in zoo.CASES:
        if any(part in str(case) for part in parts):
            mode = fake_mode()
            real = traced(zoo.build(case), None, with_ops=True)
            fake = traced(zoo.build(case, mode), mode, with_ops=True)
            found = first_divergence(real.ops, fake.ops)
            print(f"{case}: {real.peak_bytes} B real, {fake.peak_bytes} B fake; {found or 'no divergence'}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
