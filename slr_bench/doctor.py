"""Checks what this machine can measure, with a cure for each lack, and lists it as a table or as JSON.

Checks that need torch run in a child process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from slr_bench.errors import ProbeUnavailableError, SlrBenchError
from slr_bench.execute.job import DescribeEnvironment, JsonObject
from slr_bench.probes import host
from slr_bench.probes.nvml import Nvml, load_library
from slr_bench.probes.tree import PROC, pss_bytes
from slr_bench.probes.visible import list_devices, visible_uuids
from slr_bench.units import GIB, format_bytes, plain

LITTLE_DISK_BYTES: Final = 5 * GIB
_CHILD_TIMEOUT_S: Final = 120.0
_STYLES: Final = {"ok": "green", "lacking": "bold red", "not here": "yellow"}
_TORCH_CODE: Final = """
import json, torch
found = {"torch": torch.__version__, "built_for": torch.version.cuda}
try:
    import torchvision
    found["torchvision"] = torchvision.__version__
except ModuleNotFoundError:
    pass
found["devices"] = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
print(json.dumps(found))
"""
_DECODE_CODE: Final = """
import io, json, sys
try:
    import av
except ModuleNotFoundError:
    sys.exit(print(json.dumps({"av": None})))
file = io.BytesIO()
with av.open(file, "w", format="mp4") as out:
    stream = out.add_stream("h264", rate=25)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuv420p"
    for _ in range(5):
        out.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
    out.mux(stream.encode())
file.seek(0)
with av.open(file) as clip:
    frames = sum(1 for _ in clip.decode(video=0))
assert frames == 5, f"5 frames were written, {frames} read"
print(json.dumps({"av": av.__version__}))
"""


State = Literal["ok", "lacking", "not here"]


class Finding(NamedTuple):
    """The result of one check. ``cure`` is what to do if it is not ok."""

    name: str
    state: State
    detail: str
    cure: str = ""


def run_in_child(code: str) -> JsonObject | str:
    """Run code in a fresh interpreter; return the JSON that it prints, or one line that says why it failed.

    A library that crashes cannot take this process with it.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_CHILD_TIMEOUT_S, check=False
        )
        if done.returncode == 0:
            found: JsonObject = json.loads(done.stdout.splitlines()[-1])
            return found
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return f"{type(error).__name__} in the child"
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"the child ended with status {done.returncode}"


def examine(in_child: Callable[[str], JsonObject | str] = run_in_child) -> Iterator[Finding]:
    """Yield every finding, the quick ones first."""
    yield Finding("Python", "ok", platform.python_version())
    yield _cpu()
    yield from memory_findings()
    yield _disk()
    yield _memory_profiler()
    yield from gpu_findings()
    yield from torch_findings(in_child(_TORCH_CODE))
    yield decode_finding(in_child(_DECODE_CODE))
    yield _fork_server()


def _cpu() -> Finding:
    return Finding("CPU", "ok", f"{len(os.sched_getaffinity(0))} cores of {os.cpu_count()}, {platform.machine()}")


def memory_findings(proc: Path = PROC) -> Iterator[Finding]:
    """Check the limit on RAM and each meter of the kernel."""
    memory = host.read_host_memory()
    yield Finding("RAM limit", "ok", f"{format_bytes(memory.limit_bytes)}, set by the {memory.source}")
    try:
        host.reset_high_water(proc)
        yield Finding("RAM high-water mark", "ok", "exact, can be reset")
    except ProbeUnavailableError as error:
        cure = "peak RAM is null: run where /proc/self/clear_refs can be written (a container with a writable /proc)"
        yield Finding("RAM high-water mark", "lacking", str(error), cure)
    if pss_bytes(os.getpid(), proc) is None:
        cure = "RAM of a tree is RSS, shared pages counted several times: use a Linux kernel from 4.14 on"
        yield Finding("PSS of a tree", "lacking", "no smaps_rollup", cure)
    else:
        yield Finding("PSS of a tree", "ok", "shared pages counted once")
    if host.oom_kills(proc) is None:
        cure = "an out-of-memory kill looks like a crash: use a Linux kernel from 4.13 on"
        yield Finding("oom_kill counter", "lacking", "not in /proc/vmstat", cure)
    else:
        yield Finding("oom_kill counter", "ok", "the kernel's out-of-memory kills are distinguished from crashes")


def gpu_findings(load: Callable[[], Any] = load_library) -> Iterator[Finding]:
    """Check NVML, and for each GPU the quantities that its driver reports."""
    try:
        library = load()
        devices = list_devices(library)
    except ProbeUnavailableError as error:
        problem, _, cure = str(error).partition(": ")[2].partition(": ")
        yield Finding("NVML", "not here", problem, cure)
        return
    try:
        driver = str(library.nvmlSystemGetDriverVersion())
    except library.NVMLError as error:
        driver = str(error)
    yield Finding("NVML", "ok" if devices else "not here", f"driver {driver}, {len(devices)} devices")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        value = os.environ["CUDA_VISIBLE_DEVICES"]
        try:
            shown = len(visible_uuids(devices, os.environ))
            state: State = "ok" if shown else "lacking"
            yield Finding(
                "CUDA_VISIBLE_DEVICES", state, f"{value!r} shows {shown} devices", "" if shown else "unset it"
            )
        except ProbeUnavailableError as error:
            yield Finding("CUDA_VISIBLE_DEVICES", "lacking", repr(value), str(error))
    for device in devices:
        yield from _card_findings(library, device.uuid, f"GPU {device.number} {device.name}")


def _card_findings(library: Any, uuid: str, name: str) -> Iterator[Finding]:
    try:
        nvml = Nvml(library, uuid)
    except ProbeUnavailableError as error:
        yield Finding(name, "lacking", str(error), "look at dmesg for Xid errors")
        return
    reading, state = nvml.read(), nvml.state()
    fields = {**reading._asdict(), **state._asdict(), "energy_mj": nvml.energy_mj()}
    del fields["total_bytes"]
    if nvml.space.is_machines:
        del fields["process_bytes"]  # doctor itself uses no GPU, so its absence from the list means nothing
    nulls = {field: nvml.why(field) for field, value in fields.items() if value is None}
    total = format_bytes(reading.total_bytes)
    if not nulls:
        yield Finding(name, "ok", f"{total}; memory, load, heat, clocks, power, energy")
    for field, reason in nulls.items():
        yield Finding(name, "lacking", f"{field.rpartition('_')[0].replace('_', ' ')} unknown", reason)
    if nvml.is_mig_parent():
        yield Finding(name, "lacking", "split into MIG instances", "name one: CUDA_VISIBLE_DEVICES=MIG-<uuid>")


def torch_findings(found: JsonObject | str) -> Iterator[Finding]:
    """Turn what torch reports about itself, or the reason that it cannot be imported, into findings."""
    if isinstance(found, str):
        yield Finding("torch", "lacking", found, "nothing can be measured: pip install torch")
        return
    torchvision = f", torchvision {found['torchvision']}" if "torchvision" in found else ""
    yield Finding("torch", "ok", f"{found['torch']}{torchvision}")
    if found["devices"]:
        yield Finding("CUDA by torch", "ok", f"CUDA {found['built_for']}: {', '.join(found['devices'])}")
    elif found["built_for"] is None:
        cure = "on a machine with a GPU, install torch's CUDA build"
        yield Finding("CUDA by torch", "not here", "this torch is built without CUDA", cure)
    else:
        cure = "cells run on the CPU; if this machine has a GPU, repair its driver first (nvidia-smi)"
        yield Finding("CUDA by torch", "not here", f"torch for CUDA {found['built_for']} finds no device", cure)


def decode_finding(found: JsonObject | str) -> Finding:
    """Return a finding on whether five frames of H.264 can be written and read."""
    if isinstance(found, str):
        return Finding("video by PyAV", "lacking", found, "pip install --force-reinstall av: its wheel carries FFmpeg")
    if found["av"] is None:
        return Finding("video by PyAV", "not here", "an optional extra", "only for video: pip install av")
    return Finding("video by PyAV", "ok", f"PyAV {found['av']} writes and reads H.264")


def _disk() -> Finding:
    free_bytes = shutil.disk_usage(Path.cwd()).free
    if free_bytes < LITTLE_DISK_BYTES:
        cure = f"data and runs need space: keep {format_bytes(LITTLE_DISK_BYTES)} free, or use --out elsewhere"
        return Finding("disk here", "lacking", f"{format_bytes(free_bytes)} free", cure)
    return Finding("disk here", "ok", f"{format_bytes(free_bytes)} free")


def _memory_profiler() -> Finding:
    try:
        return Finding("memory_profiler", "ok", version("memory_profiler"))
    except PackageNotFoundError:
        cure = "only for `python -m memory_profiler`: pip install memory_profiler"
        return Finding("memory_profiler", "not here", "an optional extra", cure)


def _fork_server() -> Finding:
    """Check that the process of a cell can be forked and ends normally."""
    from slr_bench.execute.local import temporary_driver

    cure = "check python -c 'import torch'"
    try:
        with temporary_driver(["torch"], device="cpu") as driver:
            ending = driver.run(DescribeEnvironment(), _CHILD_TIMEOUT_S)
    except (SlrBenchError, OSError) as error:
        return Finding("fork server", "lacking", str(error), f"no cell can run: {cure}")
    if ending.result is None:
        return Finding("fork server", "lacking", f"a child ended with {ending.code or ending.signal}", cure)
    return Finding("fork server", "ok", "a cell's process starts and reports")


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """Make a table with one row per finding; a cure is a line below the detail that it mends."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(max_width=26, overflow="fold")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        text = Text(plain(finding.detail))
        if finding.cure and finding.state != "ok":
            text.append(f"\n→ {plain(finding.cure)}", style="dim")
        table.add_row(Text(plain(finding.name, 60)), Text(finding.state, style=_STYLES[finding.state]), text)
    return table


def findings_json(findings: Sequence[Finding]) -> JsonObject:
    """Return ``{"findings": [{name, state, detail, cure}], "lacking": count}``; ``cure`` is null if there is none."""
    rows = [{**finding._asdict(), "cure": finding.cure or None} for finding in findings]
    return {"findings": rows, "lacking": sum(finding.state == "lacking" for finding in findings)}
