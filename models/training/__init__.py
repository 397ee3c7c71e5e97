"""Training: optimizer steps that fit in memory, checkpoints, evaluation, and advice on settings. Imports no torch."""

CHECKPOINT_NAME = "checkpoint.pt"
CONFIG_NAME = "config.yml"
METRICS_NAME = "metrics.json"
"""Names of the files in a training's output directory."""
