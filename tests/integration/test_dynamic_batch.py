"""Trainings in a separate process whose memory is limited to the activations of a few clips."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOM_MIB = 165
"""Memory above that at the start of the training. A step of 4 clips needs 100 to 140, of 8 200 to 220."""


def data_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


def train_short_of_memory(batch_size):
    """Train one epoch of one step, and print the micro-batches that were tried."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import torch
    from tiny import CLASSES, TinyBatch, TinyLoader

    from models.config import Settings
    from models.networks.efficient import build_recogniser
    from models.training.efficient_trainer import build_trainer
    from models.training.loaders import Splits

    class Loader(TinyLoader):
        def batches(self, first=0):
            labels_B = torch.arange(batch_size) % CLASSES
            for _ in range(first, 1):
                clips_BTCHW = torch.zeros((batch_size, 16, 3, 112, 112), dtype=torch.uint8)
                yield TinyBatch(clips_BTCHW, labels_B, tuple(f"v{n}" for n in range(batch_size)))

    training = {"batch_size": batch_size, "gradient_accumulation_steps": 1, "epochs": 1, "dynamic_batch_size": True}
    training |= {"precision": "fp32", "recompute": "none", "enable_memory_tracking": False}
    settings = Settings.model_validate({"model": {"base_channels": 16, "num_classes": CLASSES}, "training": training})
    model = build_recogniser(settings.model, settings.training.recompute)
    limit = data_bytes() + ROOM_MIB * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    loader = Loader(batch_size, batch_size)
    trainer = build_trainer(model, settings.training, "cpu", 1, Splits(loader, loader))
    result = trainer.fit(None)
    print(batch_size, *[event.micro_batch for event in result.events])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA and /proc exist only on Linux")
@pytest.mark.parametrize(("batch_size", "tried"), [(4, "4"), (16, "16 8 4")])
def test_micro_batch_is_halved_until_it_fits_the_memory_of_a_process(batch_size, tried):
    command = [sys.executable, __file__, str(batch_size)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == tried.split()


if __name__ == "__main__":
    train_short_of_memory(int(sys.argv[1]))
