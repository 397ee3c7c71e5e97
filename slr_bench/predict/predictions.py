"""Predictions for one setting and for the cells of a grid, on the device of a command's options. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.execute.job import JsonObject
from slr_bench.grid.cells import Cell
from slr_bench.predict.allocator.rules import AllocatorSettings, settings_of
from slr_bench.predict.device import Device, Fit, choose_device, means_cpu
from slr_bench.predict.host import HostPrediction, predict_step_on_cpu
from slr_bench.predict.peak import CardFit, Prediction, predict_fit_per_card, predict_step
from slr_bench.predict.trace_pool import OnTraced, Refusal, StepProfile, TracePool

CellResult = Prediction | HostPrediction | Refusal


@dataclass(frozen=True)
class Target:
    """The device that the steps would run on."""

    card: Device | None
    """The GPU; None for the CPU."""
    settings: AllocatorSettings
    """Settings of the GPU's allocator."""
    ram_bytes: int | None = None
    """Memory that a process on the CPU may use."""

    @classmethod
    def from_options(cls, device: str | None, gpu_memory: str | None, alloc_conf: str) -> Self:
        """Find the device of a command's options; without one, every GPU is meant.

        Raises:
            ConfigError: the device is unknown, the size is wrong, or an option is not for the CPU.
        """
        settings = settings_of(alloc_conf)
        if not means_cpu(device):
            return cls(choose_device(device, gpu_memory), settings)
        for option, value in (("--alloc-conf", alloc_conf), ("--gpu-memory", gpu_memory)):
            if value:
                raise ConfigError(f"{option} is for GPUs; leave it out with --device cpu")
        from slr_bench.probes.host import read_host_memory

        return cls(None, settings, read_host_memory().left_bytes)

    def predict_step(self, step: StepProfile) -> Prediction | HostPrediction:
        """Predict what a traced step needs there."""
        if self.card is None:
            return predict_step_on_cpu(step, self.ram_bytes)
        return predict_step(step, self.card, settings=self.settings)


@dataclass(frozen=True)
class SettingPrediction:
    """The prediction for one setting."""

    cell: Cell
    result: Prediction | HostPrediction
    cards: Mapping[str, CardFit]
    """The fit on each known card, if no device was named."""
    loader_refusal: str | None = None
    """Why the loader would refuse the setting, and what it would need instead."""

    @property
    def does_not_fit(self) -> bool:
        """The command exits with code 6."""
        return self.result.fit is Fit.NO

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench predict``."""
        identity = {"arm": self.cell.arm, "workload": self.cell.spec.name, "setting": self.cell.public_setting}
        cards = {name: card.to_dict() for name, card in self.cards.items()}
        return (
            identity
            | {"loader_refusal": self.loader_refusal}
            | self.result.to_dict()
            | ({"cards": cards} if cards else {})
        )


@dataclass(frozen=True)
class GridPrediction:
    """The predictions for all cells of a grid."""

    device: str | None
    """The device as it was given."""
    cells: Sequence[Cell]
    results: Sequence[CellResult]

    @property
    def does_not_fit(self) -> bool:
        """No cell fits; the command exits with code 6."""
        return all(isinstance(result, Refusal) or result.fit is Fit.NO for result in self.results)

    def to_dict(self) -> JsonObject:
        """The JSON object of ``slr-bench predict --grid``."""
        return {
            "device": self.device,
            "cells": [self._entry(cell, result) for cell, result in zip(self.cells, self.results, strict=True)],
        }

    def _entry(self, cell: Cell, result: CellResult) -> Mapping[str, Any]:
        identity = {"cell_id": cell.cell_id, "arm": cell.arm, "workload": cell.spec.name}
        found = {"unsupported": result.reason} if isinstance(result, Refusal) else result.to_dict()
        return identity | {"coordinates": dict(cell.coordinates)} | found


def predict_setting(cell: Cell, target: Target, pool: TracePool) -> SettingPrediction:
    """Predict one cell.

    Raises:
        NothingMeasuredError: its step cannot be traced.
    """
    (step,) = pool.trace([cell], target.card is not None)
    if isinstance(step, Refusal):
        raise NothingMeasuredError(f"unsupported: {step.reason}")
    result = target.predict_step(step)
    is_any_card = isinstance(result, Prediction) and result.device.capacity_bytes is None
    cards = predict_fit_per_card(step, settings=target.settings) if is_any_card else {}
    return SettingPrediction(cell, result, cards)


def predict_grid(
    steps: Sequence[Cell],
    target: Target,
    pool: TracePool,
    device: str | None,
    on_traced: OnTraced = lambda cell, result: None,
) -> GridPrediction:
    """Predict the cells of a grid that run a step.

    Raises:
        NothingMeasuredError: no cell can be traced.
    """
    traced = pool.trace(steps, target.card is not None, on_traced)
    results = [step if isinstance(step, Refusal) else target.predict_step(step) for step in traced]
    if all(isinstance(result, Refusal) for result in results):
        reason = next((result.reason for result in results if isinstance(result, Refusal)), "no steps")
        raise NothingMeasuredError(f"no cell of {len(steps)} can be traced: {reason}")
    return GridPrediction(device, steps, results)
