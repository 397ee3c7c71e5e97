"""The NVML device of torch's ``cuda:N``. NVML ignores ``CUDA_VISIBLE_DEVICES`` and has its own order."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes.gpu_pids import PidSpace
from slr_bench.probes.nvml import Nvml, explain


class Device(NamedTuple):
    """One card; NVML counts them in the order of the PCI bus."""

    number: int
    uuid: str
    name: str


def list_devices(library: Any) -> list[Device]:
    """Return the cards that the driver lists; one that cannot be read is left out, the others keep their index.

    Raises:
        ProbeUnavailableError: The driver does not report the number of cards.
    """
    try:
        count = library.nvmlDeviceGetCount()
    except library.NVMLError as error:
        raise ProbeUnavailableError(f"NVML: {explain(error)}") from error
    found = []
    for index in range(count):
        try:
            handle = library.nvmlDeviceGetHandleByIndex(index)
            uuid, name = library.nvmlDeviceGetUUID(handle), library.nvmlDeviceGetName(handle)
        except library.NVMLError:
            continue
        found.append(Device(index, _text(uuid), _text(name)))
    return found


def visible_uuids(devices: list[Device], environ: Mapping[str, str]) -> list[str]:
    """Return UUIDs in the order of ``cuda:0, cuda:1, ...``, as CUDA reads ``CUDA_VISIBLE_DEVICES``.

    The first entry that names no device ends the list; a device that is named twice empties it.

    Raises:
        ProbeUnavailableError: There are numbers that CUDA counts in an order which is unknown here.
    """
    text = environ.get("CUDA_VISIBLE_DEVICES")
    entries = [str(device.number) for device in devices] if text is None else [part.strip() for part in text.split(",")]
    found: list[str] = []
    for entry in entries:
        uuid = _by_uuid(entry, devices) if entry.startswith(("GPU-", "MIG-")) else _by_number(entry, devices, environ)
        if uuid is None:
            break
        found.append(uuid)
    return found if len(set(found)) == len(found) else []


def open_device(
    library: Any,
    torch_uuid: str | None = None,
    ordinal: int = 0,
    environ: Mapping[str, str] = os.environ,
    space: PidSpace | None = None,
) -> Nvml:
    """Open the device that torch calls ``cuda:<ordinal>``, by torch's UUID if it has one, else by the environment.

    Raises:
        ProbeUnavailableError: The device is not there, or it could be another one.
    """
    named = _first_named(environ)
    if named is not None and named.startswith("MIG-") and ordinal == 0:
        return Nvml(library, named, space=space)
    if torch_uuid is not None:
        return _by_torch_uuid(library, torch_uuid, space)
    uuids = visible_uuids(list_devices(library), environ)
    if ordinal >= len(uuids):
        raise ProbeUnavailableError(
            f"NVML: no cuda:{ordinal}: CUDA_VISIBLE_DEVICES={environ.get('CUDA_VISIBLE_DEVICES', '(not set)')!s} "
            f"leaves {len(uuids)} devices"
        )
    return _not_a_mig_parent(Nvml(library, uuids[ordinal], space=space), uuids[ordinal])


def _by_torch_uuid(library: Any, torch_uuid: str, space: PidSpace | None) -> Nvml:
    """Open a device by torch's UUID, which may be a card's or a MIG instance's."""
    try:
        found = Nvml(library, f"GPU-{torch_uuid}", space=space)
    except ProbeUnavailableError as error:
        try:
            return Nvml(library, f"MIG-{torch_uuid}", space=space)
        except ProbeUnavailableError:
            raise error from error.__cause__
    return _not_a_mig_parent(found, f"GPU-{torch_uuid}")


def _not_a_mig_parent(device: Nvml, uuid: str) -> Nvml:
    if device.is_mig_parent():
        raise ProbeUnavailableError(
            f"NVML: {uuid} is split into MIG instances, and which one this process uses is not known; "
            "name it: CUDA_VISIBLE_DEVICES=MIG-<uuid> (nvidia-smi -L lists them)"
        )
    return device


def _first_named(environ: Mapping[str, str]) -> str | None:
    return environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or None


def _by_uuid(entry: str, devices: list[Device]) -> str | None:
    """Return the one card whose UUID begins with ``entry``; a MIG instance's UUID is returned unchanged."""
    if entry.startswith("MIG-"):
        return entry
    found = [device.uuid for device in devices if device.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _by_number(entry: str, devices: list[Device], environ: Mapping[str, str]) -> str | None:
    found = next((device.uuid for device in devices if entry.isdigit() and device.number == int(entry)), None)
    if found is None:
        return None
    order = environ.get("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    if order != "PCI_BUS_ID" and len({device.name for device in devices}) > 1:
        raise ProbeUnavailableError(
            f"NVML: cuda:{entry} is the fastest first, and the cards here differ; "
            "set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name the card by UUID in CUDA_VISIBLE_DEVICES"
        )
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
