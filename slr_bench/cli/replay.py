"""``slr-bench replay``: a recorded allocator history through the simulated one, as it was or with other settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slr_bench.cli.base import JsonOption, app, finish
from slr_bench.errors import EXIT_DOES_NOT_FIT, EXIT_OK, ConfigError


@app.command()
def replay(
    snapshot: Annotated[Path, typer.Argument(help="File of torch.cuda.memory._dump_snapshot.")],
    settings: Annotated[
        str | None,
        typer.Option(metavar="ALLOC_CONF", help="Other settings than recorded, as in PYTORCH_ALLOC_CONF."),
    ] = None,
    capacity: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory for segments, like 6GiB [default: no limit].")
    ] = None,
    device: Annotated[
        int | None, typer.Option(metavar="INDEX", help="GPU of the file [default: the longest history].")
    ] = None,
    torch_version: Annotated[str, typer.Option("--torch", metavar="VERSION", help="Rules of this release.")] = "2.14",
    as_json: JsonOption = False,
) -> None:
    """Replay a CUDA memory snapshot: what was reserved, how fragmented, and whether it would have fit otherwise."""
    from rich.console import Console

    from slr_bench.predict.allocator.replay import replay_snapshot
    from slr_bench.report.views.predict import print_replay
    from slr_bench.units import parse_bytes

    try:
        capacity_bytes = None if capacity is None else parse_bytes(capacity)
    except ValueError as error:
        raise ConfigError(f"--capacity: {error}") from error
    found = replay_snapshot(snapshot, settings, capacity_bytes, device, torch_version)
    print_replay(found, Console(stderr=as_json))
    finish(found.to_dict(), EXIT_OK if found.simulated.out_of_memory is None else EXIT_DOES_NOT_FIT, as_json)
