"""What the commands share: the application, options, how one ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

DEFAULT_RUN_DIRECTORY = Path("reports/latest")

app = typer.Typer(
    name="slr-bench",
    help="Measure the memory, time and accuracy of training steps; compare arms; report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.")]


SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key, like training.batch_size=4. Repeatable."),
]


def finish(result: dict[str, Any], exit_code: int, as_json: bool) -> NoReturn:
    """End a command: its one JSON object where asked for, and its exit code."""
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    raise typer.Exit(exit_code)
