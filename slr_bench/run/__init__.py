"""Runs the cells of a grid: one process and one record per run."""

import sys

import slr_bench

sys.modules[__name__].__class__ = slr_bench.CallablePackage  # the package can be called
