"""The documented calls of the page that this project implements, word for word, except for placeholders.

``test_train_command.py`` runs the documented training.
"""

import os
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from markdown_page import Page

from models.config import Settings, load_settings
from slr_bench.files import parse_overrides

ROOT = Path(__file__).parents[2]
SNIPPETS = {
    "configuration": "model:\n  num_classes: 100\n  base_channels: 64\n  num_frames: 16\n"
    "training:\n  batch_size: 8\n  gradient_accumulation_steps: 4\n  mixed_precision: true\n",
    "caching": "model:\n  enable_feature_caching: true\n  cache_size_limit_mb: 1024  # 1GB limit\n",
    "monitoring": "training:\n  enable_memory_tracking: true\n  memory_warning_threshold: 0.9\n"
    "  memory_critical_threshold: 0.95\n",
    "loading": "data:\n  chunk_size: 32\n  max_frames_in_memory: 256\n",
}
MONITORING = """
from models.training.efficient_trainer import MemoryTracker

tracker = MemoryTracker()
stats = tracker.check_memory()
print(f"GPU Memory: {stats['gpu_allocated']:.2f} GB")
print(f"RAM Usage: {stats['ram_percent']:.1f}%")
"""


def call(line, *more):
    command = [sys.executable if word == "python" else word for word in [*shlex.split(line), *map(str, more)]]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=290, check=False, env=environment)


def in_documentation(start):
    """Return the code block of the page on training that contains ``start``."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), re.DOTALL)
    return next(block for block in blocks if start in block)


@pytest.mark.parametrize("source", ["page", "documentation"])
def test_the_monitoring_snippet_prints_gib_and_percent(source, capsys):
    snippet = MONITORING if source == "page" else in_documentation("MemoryTracker")
    exec(compile(snippet, source, "exec"), {})
    gpu, ram = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"GPU Memory: \d+\.\d\d GB", gpu)
    assert re.fullmatch(r"RAM Usage: \d+\.\d%", ram)
    assert torch.cuda.is_available() or gpu == "GPU Memory: 0.00 GB"
    assert 0 < float(ram.removeprefix("RAM Usage: ").rstrip("%")) <= 100


@pytest.mark.parametrize("name", SNIPPETS)
def test_the_documented_keys_exist_and_have_the_documented_values(name):
    """The reference configuration holds the same values."""
    reference = load_settings(ROOT / "configs" / "efficient_training.yml").model_dump(mode="json")
    for section, values in yaml.safe_load(SNIPPETS[name]).items():
        assert Settings.model_validate({section: values})
        assert {key: reference[section][key] for key in values} == values


def test_documented_product_is_the_effective_batch():
    training = load_settings(ROOT / "configs" / "efficient_training.yml").training
    effective_batch_size = training.batch_size * training.gradient_accumulation_steps
    assert effective_batch_size == training.effective_batch == 32


def test_memory_profiler_runs_the_script():
    """The call has no data, and prints that."""
    pytest.importorskip("memory_profiler")
    result = call("python -m memory_profiler train_efficient_model.py")
    assert result.returncode == 2
    assert result.stderr.startswith("error: no data directory")


@pytest.mark.slow
def test_memory_profiler_runs_a_whole_training(tiny_setting, tmp_path):
    pytest.importorskip("memory_profiler")
    pairs = [part for key, value in tiny_setting.items() for part in ("--set", f"{key}={value}")]
    result = call("python -m memory_profiler train_efficient_model.py", "--output-dir", tmp_path, *pairs)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("epoch 1/1")
    assert (tmp_path / "checkpoint.pt").exists()


@pytest.mark.slow
def test_memory_tests_run_alone():
    result = call("python -m pytest tests/test_memory_efficiency.py")
    assert result.returncode == 0, result.stdout


def test_the_advisor_turns_troubleshooting_into_commands(capsys, monkeypatch):
    """``oom``: reduce batch size, increase accumulation, mixed precision. The rest: tests/unit/models/training."""
    from models.training import advisor

    monkeypatch.chdir(ROOT)
    assert advisor.main(["--symptom", "oom", "--config", "configs/baseline.yml"]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:4] == ["python", "train_efficient_model.py", "--config", "configs/baseline.yml"]
    pairs = [word for option, word in pairwise(words) if option == "--set"]
    training = load_settings(ROOT / words[3], parse_overrides(pairs)).training
    assert (training.batch_size, training.gradient_accumulation_steps, training.mixed_precision) == (16, 2, True)


def examples_with_output():
    """Return every command of the README that is followed by its output, with the lines of this output."""
    examples = []
    blocks = Page(ROOT / "README.md").blocks
    for block, after in pairwise(blocks):
        if block.language == "bash" and after.language == "text":
            (line,) = Page.lines(block)
            examples.append(pytest.param(line, after.text.splitlines(), id=line.split()[1]))
    return examples


def test_readme_shows_the_output_of_five_commands():
    assert [case.id for case in examples_with_output()] == ["profile", "run", "predict", "plan", "gate"]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "promised"), examples_with_output())
def test_output_in_the_readme_equals_that_of_the_command(line, promised, tmp_path):
    line = line.replace("slr-bench", "python -m slr_bench", 1).replace("reports/latest-fake", str(tmp_path))
    result = call(line.replace("HEAD~1", "HEAD"))  # the last commit may change bytes on purpose
    assert result.returncode == 0, result.stderr
    printed = " ".join(result.stdout.split())
    assert [text for text in promised if " ".join(text.split()) not in printed] == []


@pytest.mark.slow
def test_python_lines_of_the_readme_print_the_peak_and_the_verdict():
    (code,) = [block.text for block in Page(ROOT / "README.md").blocks if block.language == "python"]
    assert len([line for line in code.splitlines() if line]) <= 6
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=290, check=True
    )
    peak_bytes, does_not_fit = done.stdout.split()
    assert (round(int(peak_bytes) / 2**20, 1), does_not_fit) == (798.6, "False")
