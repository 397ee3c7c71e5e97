"""The techniques: tables and waterfall of simple figures."""

from dataclasses import replace

import pytest
from fake_runs import FakeRun, epoch_metrics, step_metrics

from slr_bench.grid.config import AblationChain
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.write import waterfall_picture

MIB = 1024**2
LADDER = AblationChain.model_validate(
    {
        "start": "baseline",
        "end": "optimized",
        "techniques": {
            "bf16": {"keys": ["training.precision"], "same": "accuracy"},
            "shift": {"keys": ["model.temporal_shift"], "same": "function"},
            "recomputation": {"keys": ["training.recompute"], "same": "function"},
        },
    }
)
MEMORY_MIB = {
    "baseline": 960, "+ bf16": 480, "+ shift": 480, "optimized": 80,
    "without bf16": 160, "without shift": 100, "without recomputation": 480,
}  # fmt: skip


def content(tmp_path, left_out=()):
    run = FakeRun(tmp_path / "run")
    run.ladder = LADDER
    for place, (arm, size) in enumerate(MEMORY_MIB.items()):
        if arm not in left_out:
            cell = run.cell(arm, repeats=1)
            run.record(cell, 0, step_metrics(size * MIB, 1.0 + place / 2))
            run.record(run.cell(arm, "train_epochs", repeats=1), 0, epoch_metrics(0.5 + place / 100, 60))
    return read_content(run.write())


def tables(found):
    section = next(section for section in found.report.sections if section.key == "waterfall")
    return [[[cell.text for cell in row.cells] for row in table.rows] for table in section.tables]


def test_only_smaller_memory_has_a_good_tone(tmp_path):
    run = FakeRun(tmp_path / "run")
    run.ladder = LADDER
    for arm, size in (MEMORY_MIB | {"smaller": 60, "larger": 90, "as large": 80}).items():
        run.record(run.cell(arm, repeats=1), 0, step_metrics(size * MIB, 1.0))
    section = next(one for one in read_content(run.write()).report.sections if one.key == "waterfall")
    added, left_out, beside = section.tables
    assert "logarithmic" in " ".join(section.paragraphs)
    for table in (left_out, beside):
        assert table.columns[2].title == "× optimized's memory"
    assert [(row.cells[2].text, row.cells[2].tone) for row in beside.rows] == [
        ("0.75×", "good"),
        ("1.12×", ""),
        ("equal", ""),
    ]
    assert {row.cells[2].tone for row in left_out.rows} == {""}
    assert [row.cells[3].tone for row in added.rows[1:]] == ["good", "", "good"]


def test_techniques_are_compared_with_the_previous_one_and_with_all(tmp_path):
    added, left_out = tables(content(tmp_path))
    assert [row[:4] for row in added] == [
        ["baseline", "–", "960.0 MiB", "–"],
        ["bf16", "accuracy", "480.0 MiB", "2.0×"],
        ["shift", "equal outputs", "480.0 MiB", "equal"],
        ["recomputation", "equal outputs", "80.0 MiB", "6.0×"],
    ]
    assert [row[4:] for row in added] == [
        ["1.00 s", "50.0 %"], ["1.50×", "51.0 %"], ["1.33×", "52.0 %"], ["1.25×", "53.0 %"],
    ]  # fmt: skip
    assert left_out == [
        ["bf16", "160.0 MiB", "2.0×", "1.20×", "54.0 %"],
        ["shift", "100.0 MiB", "1.25×", "1.40×", "55.0 %"],
        ["recomputation", "480.0 MiB", "6.0×", "1.60×", "56.0 %"],
    ]


def test_lead_splits_the_saving_by_function_and_accuracy(tmp_path):
    found = content(tmp_path)
    assert found.arms == ("baseline", "optimized")
    assert "12.0× less" in found.report.lead
    assert "6.0× computes the same function (shift, recomputation)" in found.report.lead
    assert "2.0× is judged by accuracy (bf16)" in found.report.lead


def test_neighbouring_techniques_of_the_same_function_are_summed_up(tmp_path):
    def sums(found):
        section = next(section for section in found.report.sections if section.key == "waterfall")
        return [text for text in section.paragraphs if text.startswith("Together")]

    together = "Together, shift, recomputation save 6.0× at 1.67× the step time, and compute the same function."
    assert sums(content(tmp_path / "whole")) == [together]
    assert sums(content(tmp_path / "less", left_out={"+ bf16"})) == []


def test_unmeasured_technique_is_not_part_of_the_product(tmp_path):
    found = content(tmp_path, left_out={"+ shift", "without bf16"})
    added, left_out = tables(found)
    assert added[2][2:4] == ["–", "–"]
    assert left_out[0][1:3] == ["–", "–"]
    assert "equal outputs" not in found.report.lead  # two of its factors are unknown


@pytest.mark.parametrize("left_out", [(), ("+ shift", "without bf16")])
def test_picture_names_every_technique_and_its_factor(tmp_path, left_out):
    picture = waterfall_picture(content(tmp_path, left_out))
    for text in ("baseline", "bf16", "shift", "recomputation", "960.0 MiB", "80.0 MiB"):
        assert text in picture.svg
    assert ("÷ 6.0" in picture.svg) is not bool(left_out)
    assert ("not measured" in picture.svg) is bool(left_out)


def test_further_arms_are_compared_with_the_end_of_the_chain(tmp_path):
    run = FakeRun(tmp_path / "run")
    run.ladder = LADDER
    for arm, size in (MEMORY_MIB | {"in 8 bits": 60}).items():
        run.record(run.cell(arm, repeats=1), 0, step_metrics(size * MIB, size / 100))
    assert tables(read_content(run.write()))[2] == [["in 8 bits", "60.0 MiB", "0.75×", "0.75×"]]


def test_no_waterfall_without_techniques(tmp_path):
    assert waterfall_picture(replace(content(tmp_path), chain=None)) is None


def test_bars_fall_from_one_technique_to_the_next_by_factors(tmp_path):
    section = next(section for section in content(tmp_path).report.sections if section.key == "waterfall")
    added, left_out = section.tables[:2]
    bars = [row.cells[2].bar for row in added.rows]
    assert (bars[0].start, bars[0].end) == (0, 1)
    assert [bar.end for bar in bars[1:]] == pytest.approx([bars[0].end, bars[1].start, bars[2].start])
    doubling = bars[1].end - bars[1].start  # 960 -> 480
    assert bars[2].end == bars[2].start
    assert bars[3].end - bars[3].start == pytest.approx(doubling * 2.585, rel=1e-3)  # log2 of 480 / 80
    worth = [row.cells[2].bar for row in left_out.rows]
    assert [bar.end for bar in worth] == pytest.approx([0.387, 0.125, 1], abs=1e-3)  # logs of 2, 1.25 and 6


def test_unmeasured_technique_has_no_bar(tmp_path):
    found = content(tmp_path, left_out=("+ shift",))
    section = next(section for section in found.report.sections if section.key == "waterfall")
    assert [row.cells[2].bar is None for row in section.tables[0].rows] == [False, False, True, False]
