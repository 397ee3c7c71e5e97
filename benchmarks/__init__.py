"""The one place where the recogniser and the bench meet: registered workloads."""

from slr_bench.startup import BENCH, RECOGNISER, require_packages

require_packages(__name__, (*BENCH, *RECOGNISER))
