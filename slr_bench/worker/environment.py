"""Collects what a figure depends on besides the setting, in the child; without user, host name or path."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

TRACE_RULES = 2
"""Version of the rules by which bytes are traced.

1 - storages at the dispatcher. 2 - corrected fake kernels (``trace.fake.cpu_rules``): norm statistics, the gradient of
group norm, the workspace of LSTM. A constant lifted under fake tensors counts once. What the last step left and the
random states that recomputation keeps count too."""

_ALLOCATOR_VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "MALLOC_ARENA_MAX")


def resolve_device(name: str) -> str:
    """Return ``cuda`` for ``auto`` if torch sees a CUDA device, else ``cpu``; any other name as it is."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def collect_environment(device: str, isolation: str) -> dict[str, JsonValue]:
    """Return the versions, processor, GPU and thread settings of this process."""
    import torch

    environment: dict[str, JsonValue] = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a class of its own, which not every serializer takes
        **_torchvision(),
        "trace_rules": TRACE_RULES,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "isolation": isolation,
        "device": device,
    }
    environment |= {name: os.environ[name] for name in _ALLOCATOR_VARIABLES if name in os.environ}
    if device == "cuda" and torch.cuda.is_available():  # without one, the parent reports it
        properties = torch.cuda.get_device_properties(0)
        environment |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "driver": _driver_version(),
        }
    return environment


def _torchvision() -> dict[str, JsonValue]:
    """Return the version of torchvision; empty if it is not installed: only workloads with images need it."""
    try:
        return {"torchvision": version("torchvision")}
    except PackageNotFoundError:
        return {}


def _cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _driver_version(proc: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    try:
        words = proc.read_text().splitlines()[0].split()
    except (OSError, IndexError):
        return None
    return next((word for word in words if word[0].isdigit() and "." in word), None)
