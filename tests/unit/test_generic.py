"""slr_bench measures any workload: it names no key, metric or noun of this repository's recogniser."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from benchmarks.workloads import train_epochs, train_step
from slr_bench.files import flatten

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "slr_bench"
FILES = sorted([*SOURCE.rglob("*.py"), *(SOURCE / "report/templates").iterdir()])
KEYS = sorted(flatten(train_step.settings().model_dump()))
NOUNS = r"\bclips?\b|\bsigns?\b|\bsigners?\b|\bvideos?\b|clips_per"
WORKLOADS = r"\btrain_step\b|\btrain_epochs\b"
METRICS = "|".join(re.escape(name) for name in train_epochs.metrics)
WORDS = re.compile("|".join([*(rf"\b{re.escape(key)}\b" for key in KEYS), NOUNS, WORKLOADS, METRICS]))
ALLOWED = {
    # A file without a workload is a setting of `train_step`: part of the documented commands.
    "grid/config.py": {"train_step"},
    "cli/look.py": {"train_step"},
    # Work of earlier source trees counts `clips_per_step`; the gate still measures those trees.
    "grid/workload.py": {"clips_per"},
    # Examples of the noun and the workload that a project can choose, in documentation strings.
    "grid/description.py": {"clip"},
    "grid/project_file.py": {"train_step"},
    "predict/trace_pool.py": {"clips"},
    # The doctor also checks the optional packages of the recogniser.
    "doctor.py": {"clip", "video"},
    # Statistics: the sign of a difference.
    "compare/statistics.py": {"sign"},
    # The property `clip-path` of CSS.
    "report/templates/report.css": {"clip"},
    "run/schedule.py": {"sign"},
}


def texts(path: Path) -> list[str]:
    """Return every string of a module, its documentation included, or the whole text of a template."""
    if path.suffix != ".py":
        return [path.read_text()]
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_the_recogniser_has_keys_and_metrics_to_look_for():
    assert {"training.batch_size", "model.num_frames", "data.frame_size"} <= set(KEYS)
    assert {"accuracy_top1", "train_loss"} <= train_epochs.metrics.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_string_of_slr_bench_names_the_recogniser(path):
    found = {match for text in texts(path) for match in WORDS.findall(text)}
    assert found <= ALLOWED.get(str(path.relative_to(SOURCE)), set())


def test_templates_are_among_the_files():
    assert {"report.html.j2", "report.css", "report.js"} <= {path.name for path in FILES}


def test_nothing_is_allowed_that_is_not_there():
    for name, words in ALLOWED.items():
        found = {match for text in texts(SOURCE / name) for match in WORDS.findall(text)}
        assert words <= found, name
