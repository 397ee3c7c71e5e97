"""The memory-efficient word-level sign recogniser and its trainer."""

from slr_bench.startup import BENCH, RECOGNISER, require_packages

require_packages(__name__, (*BENCH, *RECOGNISER))
