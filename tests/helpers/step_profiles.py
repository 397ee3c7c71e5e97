"""Traced steps made by hand, for predictions without a trace."""

from __future__ import annotations

from typing import Any

from slr_bench.predict.trace_pool import StepProfile


def step_profile(*requests: list[int], **fields: Any) -> StepProfile:
    """A step with these requests; other fields have small values that a test may replace."""
    defaults: dict[str, Any] = {
        "source": "cuda-rules",
        "cuda_rules": 2,
        "peak_tensor_bytes": 7,
        "floor_bytes": 5,
        "by_category": {"parameter": 7},
        "by_module": [],
        "flops_by_dtype": {},
        "touched_bytes_per_step": 0,
        "operators": 0,
        "samples_per_step": 1,
    }
    return StepProfile(requests=requests, **(defaults | fields))
