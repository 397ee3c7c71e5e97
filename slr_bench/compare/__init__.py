"""Compare two sides of a measurement: statistics over processes, verdicts per cell, and rules for a gate."""

import sys

import slr_bench

sys.modules[__name__].__class__ = slr_bench.CallablePackage  # the package can be called
