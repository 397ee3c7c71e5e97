"""The commands: each reads its options, calls one function of :mod:`slr_bench.api`, prints the result and exits.

Each command imports what it needs when it is called, so that ``--help`` is quick.
"""

from __future__ import annotations

from slr_bench.cli.base import app, main
from slr_bench.cli.compare import compare, gate
from slr_bench.cli.look import doctor, report, schema, watch
from slr_bench.cli.predict import calibrate, plan, predict, replay
from slr_bench.cli.run import profile, run

__all__ = ["app", "main"]

for _command in (run, report, compare, gate, profile, predict, plan, calibrate, replay, watch, doctor, schema):
    app.command()(_command)  # --help lists them in this order
