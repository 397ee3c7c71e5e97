"""Names of the files in a training's output directory. No torch."""

CHECKPOINT_NAME = "checkpoint.pt"
CONFIG_NAME = "config.yml"
METRICS_NAME = "metrics.json"
