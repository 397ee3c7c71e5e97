"""A script for a machine with a GPU: it compares a small step's history with the simulator and measures operators."""

from __future__ import annotations

import json
import sys

import torch

from slr_bench.predict.allocator.golden import GoldenTrace
from slr_bench.predict.allocator.verdict import golden_differences
from slr_bench.worker.calibrate import TorchGpu, measured_operators, recorded_steps
from slr_bench.worker.operator_cases import CASES


class Step:
    """A convolution under AdamW."""

    def load(self):
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.ReLU()).cuda()
        self.optimizer = torch.optim.AdamW(self.layers.parameters())

    def step(self):
        self.layers(torch.ones(8, 3, 112, 112, device="cuda")).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


if __name__ == "__main__":
    trace = GoldenTrace.from_steps({}, recorded_steps(TorchGpu(), Step, warmup_steps=2))
    operators = measured_operators(TorchGpu(), CASES)["operators"]
    json.dump({"differences": golden_differences(trace), "operators": operators}, sys.stdout)
