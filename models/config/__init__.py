"""Settings of a training run, checked and frozen. Imports no torch, so a typo is reported at once.

Keys keep the names of the reference configuration (``configs/efficient_training.yml``).
"""

from models.config.model import Frozen, ModelConfig
from models.config.settings import DataConfig, Settings, TrainingConfig, load_settings, settings_of, working_size

__all__ = [
    "DataConfig", "Frozen", "ModelConfig", "Settings", "TrainingConfig", "load_settings",
    "settings_of", "working_size",
]  # fmt: skip
