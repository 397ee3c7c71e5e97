"""Results of the Python interface: the JSON of a command, and its tables for a terminal or a notebook.

Each class combines the data that a lower room computed with the view that prints it. `Comparison` needs no such class,
because it makes its own table.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from slr_bench.execute.job import JsonObject
    from slr_bench.predict.plan.result import Plan as ChosenPlan
    from slr_bench.predict.predictions import GridPrediction, SettingPrediction
    from slr_bench.report.charts.matplotlib_renderer import Picture
    from slr_bench.run.profiler import Profile as StepProfile
    from slr_bench.run.runner import Totals


class Result(ABC):
    """The result of one function of the Python interface."""

    @abstractmethod
    def to_dict(self) -> JsonObject:
        """Return the JSON object that the command prints with ``--json``."""

    @abstractmethod
    def show(self, console: Console) -> None:
        """Print the tables of the command."""

    def _repr_html_(self) -> str:
        """Return the tables of the command as HTML for a notebook."""
        console = Console(file=io.StringIO(), record=True, width=120)
        self.show(console)
        return console.export_html(inline_styles=True, code_format='<pre style="line-height:1.2">{code}</pre>')


@dataclass(frozen=True)
class Profile(Result):
    """Every byte at the peak of one step."""

    data: StepProfile

    def to_dict(self) -> JsonObject:
        """Return the JSON object of ``slr-bench profile``."""
        return self.data.to_dict()

    def show(self, console: Console) -> None:
        """Print the bytes by category, module and phase, and the largest tensors."""
        from slr_bench.report.views.profile import print_profile

        print_profile(self.to_dict(), console)

    def write_page(self, directory: Path, command: str = "") -> Path:
        """Write a page with pictures and the JSON into a directory, and return the page's path."""
        from slr_bench.report.views.profile import write_page

        return write_page(self.to_dict(), directory, command)


@dataclass(frozen=True)
class Prediction(Result):
    """The memory that one setting, or every cell of a grid, will need."""

    data: SettingPrediction | GridPrediction

    @property
    def does_not_fit(self) -> bool:
        """True if the setting, or every cell, needs more memory than the device has."""
        return self.data.does_not_fit

    def to_dict(self) -> JsonObject:
        """Return the JSON object of ``slr-bench predict``."""
        return self.data.to_dict()

    def show(self, console: Console) -> None:
        """Print the prediction by category, or one row per cell."""
        from slr_bench.predict.predictions import GridPrediction
        from slr_bench.report.views.predict import print_cells, print_prediction

        if isinstance(self.data, GridPrediction):
            print_cells(self.data.cells, self.data.results, console)
        else:
            print_prediction(self.data.cell, self.data.result, self.data.cards, console)
            if self.data.loader_refusal is not None:
                text = f"The loader would refuse this setting: {self.data.loader_refusal}"
                console.print(text, style="yellow", markup=False, highlight=False)


@dataclass(frozen=True)
class Plan(Result):
    """The setting that was chosen for a memory budget, and the settings that it was chosen from."""

    data: ChosenPlan

    def to_dict(self) -> JsonObject:
        """Return the JSON object of ``slr-bench plan``."""
        return self.data.to_dict()

    def show(self, console: Console) -> None:
        """Print the chosen setting and the alternatives."""
        from slr_bench.report.views.plan import print_plan

        print_plan(self.data, console)

    def setting_file(self) -> str:
        """Return the chosen setting as YAML that the other commands read."""
        from slr_bench.report.views.plan import setting_file

        return setting_file(self.data)

    def picture(self) -> Picture:
        """Draw memory against time of every setting that was considered, as SVG and PNG."""
        from slr_bench.report.views.plan import plan_picture

        return plan_picture(self.data)


@dataclass(frozen=True)
class RunResult(Result):
    """The records of a run directory that belong to a grid."""

    directory: Path
    totals: Totals

    @property
    def outcomes(self) -> dict[str, int]:
        """Number of runs per outcome."""
        from slr_bench.run.runner import outcome_counts

        return outcome_counts(self.totals.records)

    def to_dict(self) -> JsonObject:
        """Return the JSON object of ``slr-bench run``."""
        from statistics import median

        records = self.totals.records
        harness_s = [value for record in records if (value := record.value("harness_s")) is not None]
        return {
            "run_dir": str(self.directory),
            "cells": len({record.cell_id for record in records}),
            "outcomes": self.outcomes,
            "duration_s": self.totals.duration_s,
            "harness_s_per_cell": median(harness_s) if harness_s else None,
        }

    def show(self, console: Console) -> None:
        """Print the summary of the report."""
        from slr_bench.report.formats.terminal import print_summary
        from slr_bench.report.run_report.content import read_content

        print_summary(read_content(self.directory).report, console)
