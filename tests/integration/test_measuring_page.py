"""Executes every step of ``docs/measuring_your_model.md`` in a copy of the project that it describes."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from markdown_page import Page
from torch import nn

from slr_bench.grid.training_step import TrainingStep
from slr_bench.worker.context import Context

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "tiny_video_model"
PAGE = Page(ROOT / "docs" / "measuring_your_model.md")


@pytest.mark.parametrize("block", [block for block in PAGE.blocks if block.file], ids=lambda block: block.file)
def test_code_block_that_names_a_file_is_in_that_file(block):
    assert block.text.strip() in (EXAMPLE / block.file).read_text()


def test_page_shows_the_whole_module_of_about_twenty_lines():
    shown = {block.file: block.text for block in PAGE.blocks if block.file}
    assert shown.keys() == {"tiny_video_model/bench.py", "pyproject.toml", "grid.yml"}
    for whole in ("tiny_video_model/bench.py", "grid.yml"):
        assert shown[whole] == (EXAMPLE / whole).read_text()
    assert sum(bool(line.strip()) for line in shown["tiny_video_model/bench.py"].splitlines()) <= 25


def test_example_does_not_import_the_models_of_this_repository():
    code = "import tiny_video_model.bench, sys; before = set(sys.modules); import tiny_video_model.network"
    code += (
        "\nprint('torch' in before, [name for name in sys.modules if name.split('.')[0] in ('models', 'benchmarks')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split(maxsplit=1) == ["False", "[]\n"]


def test_commands_of_the_page_do_what_the_page_describes(slr_bench, tmp_path):
    """The example is not installed: its project file and the working directory are enough."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    outputs, last = {}, ""
    for block in PAGE.blocks:
        for line in block.text.splitlines() if block.language == "bash" else ():
            if line.startswith("slr-bench "):
                done = slr_bench(*shlex.split(line, comments=True)[1:])
                assert done.returncode == 0, done.stderr
                outputs[line], last = done.stdout, done.stdout
        if block.language == "text":
            said = [" ".join(line.split()) for line in last.splitlines()]
            promised = [" ".join(line.split()) for line in block.text.splitlines() if " ms" not in line]
            assert [line for line in promised if not any(text.startswith(line) for text in said)] == []
    assert [line.split()[1] for line in outputs] == ["schema", "run", "profile", "profile", "report"]
    check_records(
        tmp_path / "reports" / "tiny", json.loads((tmp_path / "reports/tiny-profile/profile.json").read_text())
    )
    assert json.loads(outputs["slr-bench schema tiny_video"])["properties"].keys() == {
        "batch_size", "micro_batches", "recompute",
    }  # fmt: skip


def check_records(run_dir, profile):
    """The six runs agree with each other, with the profile, and with the numbers of the page."""
    records = [json.loads(path.read_text()) for path in (run_dir / "records").iterdir()]
    peaks = {(record["setting"]["recompute"], record["metrics"]["peak_tensor_bytes"]["value"]) for record in records}
    assert (len(records), len(peaks)) == (6, 2)
    assert (False, profile["peak_tensor_bytes"]) in peaks
    assert profile["residual_bytes"] == 0
    activation = 8 * 8 * 8 * 32 * 32 * 4
    assert 6 * activation <= profile["by_category"]["saved activation"] < 6 * activation + 4096
    assert (run_dir / "report.html").is_file()


def test_custom_loop_of_the_page_trains():
    (block,) = [block for block in PAGE.blocks if block.language == "python" and not block.file]
    names = {}
    exec(compile(block.text, "page", "exec"), names)
    context = Context(torch.device("cpu"), None)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    work = names["ClippedStep"](
        context, model, optimizer, lambda: (torch.ones(2, 4), torch.tensor([0, 1])), nn.functional.cross_entropy, 2
    )
    assert isinstance(work, TrainingStep)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    work.load()
    work.step()
    moved = sum((now - then).square().sum() for now, then in zip(model.parameters(), before, strict=True)).sqrt()
    assert 0 < moved <= 1.0 + 1e-4  # the norm that the gradient is clipped to
    assert work.samples_per_step == 4


def test_messages_on_the_page_are_those_of_the_code():
    sources = "\n".join(path.read_text() for path in (ROOT / "slr_bench").rglob("*.py"))
    for told in ("is registered", "ignores unknown keys", "has no default for", "holds runs of another"):
        assert told in sources
        assert told in PAGE.path.read_text()
    assert re.search(r"was given a real tensor among fake ones", sources)
