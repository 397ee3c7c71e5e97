"""``slr-bench schema``: what training and grid files may say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import app
from slr_bench.errors import ConfigError


@app.command()
def schema(
    workload: Annotated[str, typer.Argument(help="Registered workload whose settings to describe.")] = "train_step",
    grid: Annotated[bool, typer.Option("--grid", help="The schema of grid files of this workload.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Both kinds of files as a page to read, in place of a schema.")
    ] = False,
) -> None:
    """Write the JSON Schema of a workload's training files, with which editors complete the YAML."""
    from slr_bench.grid.project_file import use_projects_of
    from slr_bench.grid.reference import reference
    from slr_bench.grid.schema import grid_schema, training_schema
    from slr_bench.grid.workload import find_workload

    if grid and markdown:
        raise ConfigError("--grid and --markdown are two outputs: the page has both kinds of files; give one of them")
    use_projects_of(Path.cwd())
    spec = find_workload(workload)
    if markdown:
        sys.stdout.write(reference(spec))
    else:
        sys.stdout.write(json.dumps(grid_schema(spec) if grid else training_schema(spec), indent=1) + "\n")
