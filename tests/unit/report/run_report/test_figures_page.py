"""``docs/how_each_figure_is_measured.md`` lists every metric with its text, its unit and its quality."""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from fake_nvml import FakeCard, FakeNvml
from markdown_page import Page

from slr_bench.compare import comparability
from slr_bench.compare.cells import DETERMINISTIC
from slr_bench.compare.comparability import HARNESS, Family, family
from slr_bench.grid.workload import describe_workload
from slr_bench.probes.allocator import KINDS, CudaAllocatorProbe
from slr_bench.probes.gpu import EnergyProbe, GpuProbe, process_memory
from slr_bench.probes.gpu_pids import PidSpace
from slr_bench.probes.nvml import Nvml
from slr_bench.report.text.metrics import METRICS
from slr_bench.report.text.wording import in_order, metric_text

ROOT = Path(__file__).parents[4]
OWN_WORKLOAD = describe_workload("train_epochs")
_NAMES = [*METRICS, OWN_WORKLOAD.throughput_metric, *OWN_WORKLOAD.metrics]
TEXTS = {name: metric_text(name, OWN_WORKLOAD) for name in in_order(_NAMES, OWN_WORKLOAD)}
PAGE = Page(ROOT / "docs" / "how_each_figure_is_measured.md")
ROWS = {row["Figure"].split("`")[1]: row for table in PAGE.tables for row in table if "Figure" in row}
OWN = 41


def gpu_readings():
    """Yield the readings of the GPU's meters for a card and an allocator made by hand."""
    card = FakeCard(used=100, energies_mj=[1_000, 2_000])
    driver = Nvml(FakeNvml(card), "GPU-1", space=PidSpace(frozenset({OWN}), is_machines=True))
    probe = GpuProbe(driver, "", iter(range(9)).__next__)
    card.processes, card.used = {"Compute": [(OWN, 500)]}, 700
    probe.sample()
    stats = {f"{kind}_bytes.all.peak": 64 for kind in KINDS}
    ignore = lambda device: None  # noqa: E731
    with CudaAllocatorProbe(torch.device("cuda"), lambda device: stats, ignore, ignore) as allocator:
        pass
    with EnergyProbe(driver, "") as energy:
        pass
    read = probe.readings() | allocator.readings() | energy.readings()
    yield from read.items()
    yield "gpu_memory_peak_bytes", process_memory(read, read["peak_reserved_bytes"])
    absent = GpuProbe(None, "no driver", lambda: 0.0).readings()
    yield "gpu_memory_peak_bytes", process_memory(absent, read["peak_reserved_bytes"])


@pytest.fixture(scope="module")
def units():
    """Metric -> (unit, quality) of its values, in the committed records and by the GPU's meters."""
    found = defaultdict(dict)
    for path in sorted(ROOT.glob("reports/*/records/*.json")):
        for name, metric in json.loads(path.read_text())["metrics"].items():
            if metric["value"] is not None:
                found[name][metric["unit"], metric["quality"]] = None
    for name, metric in gpu_readings():
        assert metric.value is not None, name
        found[name][metric.unit, metric.quality] = None
    for name in TEXTS:
        if name.startswith("accuracy_"):
            found[name] |= found["accuracy_top1"]
    return found


def test_every_metric_has_a_row_and_every_row_a_metric(units):
    assert ROWS.keys() == TEXTS.keys()
    assert units.keys() == TEXTS.keys(), "a metric without words in report/text/metrics.py, or words without a metric"


@pytest.mark.parametrize("name", TEXTS)
def test_row_has_the_unit_of_the_meter_and_the_words_of_the_report(units, name):
    text, (unit, *_) = TEXTS[name], [unit for unit, _ in units[name]]
    row = {
        "Figure": f"`{name}` {text.label}",
        "Unit, quality": f"{unit}, {' or '.join(quality for _, quality in units[name])}",
        "Compares as": "never" if name in HARNESS else family(name, unit, OWN_WORKLOAD).name,
        "What it is": text.meaning,
        "What it cannot know": text.blind_spot,
    }
    assert ROWS.get(name) == row, f"write this row: | {' | '.join(row.values())} |"


def test_deterministic_metrics_are_called_exact():
    assert {name for name in DETERMINISTIC if "exact" not in ROWS[name]["Unit, quality"]} == set()


def test_table_of_families_matches_the_comparison():
    (table,) = [table for table in PAGE.tables if "Because" in table[0]]
    said = {row["Compares as"]: row["Two run directories compare where these are equal"] for row in table}
    kinds = [kind for kind in vars(comparability).values() if isinstance(kind, Family)]
    assert said.keys() == {kind.name for kind in kinds} | {"never"}
    for kind in kinds:
        assert set(said[kind.name].split("`")[1::2]) == {*kind.needs, *kind.options}, kind.name
        assert said[kind.name].startswith("never: only") == kind.interleaved


def test_custom_metric_is_compared_as_the_page_states():
    assert family("my_bytes", "bytes").name == "host"
    assert family("my_seconds", "s").name == "time"
