"""``slr-bench schema``: the JSON Schema of a training file."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from slr_bench.cli.base import app


@app.command()
def schema(
    workload: Annotated[str, typer.Argument(help="Registered workload whose settings to describe.")] = "train_step",
) -> None:
    """Write the JSON Schema of a workload's training file, with which editors complete the YAML."""
    from slr_bench.grid.workload import find_workload

    sys.stdout.write(json.dumps(find_workload(workload).settings.model_json_schema(), indent=1) + "\n")
