"""Before there is a GPU: what a step will need, and which setting fits."""

import sys

import slr_bench

sys.modules[__name__].__class__ = slr_bench.CallablePackage  # the package can be called
