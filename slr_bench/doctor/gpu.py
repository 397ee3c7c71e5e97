"""Checks which quantities the driver of each GPU reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.nvml import Nvml, load_library
from slr_bench.probes.visible import list_devices, visible_uuids
from slr_bench.units import format_bytes

State = Literal["ok", "lacking", "not here"]


class Finding(NamedTuple):
    """The result of one check. ``cure`` is what to do if it is not ok."""

    name: str
    state: State
    detail: str
    cure: str = ""


def gpu_findings(load: Callable[[], Any] = load_library) -> Iterator[Finding]:
    """Check NVML, and for each GPU the quantities that its driver reports."""
    try:
        library = load()
        devices = list_devices(library)
    except ProbeUnavailableError as error:
        what, _, cure = str(error).partition(": ")[2].partition(": ")
        yield Finding("NVML", "not here", what, cure)
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
