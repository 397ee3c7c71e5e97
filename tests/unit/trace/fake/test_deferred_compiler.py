"""Tests that torch's compiler is loaded on first use, in fresh processes."""

from __future__ import annotations

import subprocess
import sys

HEAD = """
import sys
import slr_bench.worker.trace_for_prediction
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

def is_loaded():
    return "torch._dynamo.symbolic_convert" in sys.modules

@torch.compiler.disable
def kept(x):
    return x

model = torch.nn.Linear(2, 2)
optimizer = torch.optim.AdamW(model.parameters())
checkpoint(model, kept(torch.ones(1, 2)), use_reentrant=False).sum().backward()
optimizer.step()
with FakeTensorMode(allow_non_fake_inputs=True):
    (torch.ones(3, 2).cumsum(0) @ torch.ones(2, 2)).sum()
assert not is_loaded()
"""


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_compiler_is_loaded_on_first_use_and_not_by_steps_or_fake_tensors():
    run(
        """
import torch._dynamo.config
assert torch._dynamo.config.recompile_limit > 0

@torch.compile(backend="inductor", fullgraph=True)
def compiled(x):
    return x * 2 + 1

assert compiled(torch.ones(2)).tolist() == [3, 3]
assert not is_loaded()
x = torch.ones(2)
torch._dynamo.mark_dynamic(x, 0)
assert x._dynamo_dynamic_indices == {0}
assert is_loaded()
"""
    )
