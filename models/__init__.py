"""The memory-efficient word-level sign recogniser and its trainer."""

from slr_bench.startup import BENCH, RECOGNISER, answer_early_interrupts, require_packages

require_packages(__name__, (*BENCH, *RECOGNISER))
answer_early_interrupts(__name__)
