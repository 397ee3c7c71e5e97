"""Content of a report: figures, reasons and warnings of runs made by hand."""

from __future__ import annotations

import pytest
from fake_runs import MIB, epoch_metrics, fill_usual, setting, step_metrics

from slr_bench.errors import ConfigError
from slr_bench.record import Metric, Outcome
from slr_bench.report.formats.documents import render_html
from slr_bench.report.formats.latex import headline_table
from slr_bench.report.run_report.content import commands, read_content


def section(report, key):
    return next(part for part in report.sections if part.key == key)


def texts(table):
    return [[cell.one_line for cell in row.cells] for row in table.rows]


def notes(table):
    return [cell.note for row in table.rows for cell in row.cells]


def test_headline_has_memory_time_and_accuracy_with_ratios(usual_run):
    report = read_content(usual_run).report
    assert [column.title for column in report.headline.columns] == [
        "Arm", "Memory", "Step time", "Training time", "Accuracy",
    ]  # fmt: skip
    assert texts(report.headline) == [
        ["baseline", "800.0 MiB", "1.10 s", "1 min 0 s", "50.0 %"],
        [
            "optimized",
            "100.0 MiB (8.0× less)",
            "1.65 s (1.50× as long, n too small)",
            "1 min 6 s (1.10× as long, n too small)",
            "52.0 % (+2.0 points, n too small)",
        ],
    ]
    assert report.title == "optimized against baseline"
    assert report.lead == (
        "Memory 8.0× less (800.0 MiB → 100.0 MiB); step time 1.50× as long, n too small (1.10 s → 1.65 s); "
        "accuracy +2.0 points, n too small (50.0 % → 52.0 %)."
    )
    assert report.warnings == ()


def test_three_processes_give_no_verdict_on_time(usual_run):
    report = read_content(usual_run).report
    tones = {card.title: card.tone for card in report.cards}
    assert tones == {"Memory": "good", "Step time": "", "Training time": "", "Accuracy": ""}
    assert "no verdict below 8" in report.cards[1].basis


def test_eight_processes_give_a_verdict_on_time(new_run):
    run = new_run()
    for arm, factor in (("baseline", 1.0), ("optimized", 1.2)):
        cell = run.cell(arm, repeats=8)
        for repeat in range(8):
            run.record(cell, repeat, step_metrics(100 * MIB, factor * (1 + repeat / 10)))
    report = read_content(run.write()).report
    card = next(card for card in report.cards if card.title == "Step time")
    assert (card.tone, card.change) == ("bad", "1.20× as long")
    assert card.basis == "99 % interval 1.20–1.20, 8 pairs: slower"
    assert report.cards[0].change == "equal"


def test_report_describes_the_measured_setting(usual_run):
    measured = read_content(usual_run).report.measured
    for part in (
        "cpu (Fake CPU, 2 cores)",
        "16 frames of 112×112",
        "effective batch 16 = 16 × 1 micro-batches, fp32",
        "effective batch 16 = 4 × 4 micro-batches, bf16",
    ):
        assert part in measured


def test_table_of_arms_lists_only_keys_that_differ(usual_run):
    [table] = section(read_content(usual_run).report, "arms").tables
    assert texts(table) == [
        ["training.batch_size", "16", "4"],
        ["training.gradient_accumulation_steps", "1", "4"],
        ["training.precision", "fp32", "bf16"],
        ["training.recompute", "none", "block"],
    ]


def test_table_is_transposed_when_arms_outnumber_keys(new_run):
    run = new_run()
    for number in range(5):
        run.record(run.cell(f"arm {number}", setting=setting(16, 1, f"fp{number}")), 0, step_metrics(MIB, 1.0))
    [table] = section(read_content(run.write()).report, "arms").tables
    assert [column.title for column in table.columns] == ["Arm", "training.precision"]
    assert texts(table)[4] == ["arm 4", "fp4"]


def test_different_effective_batches_give_a_warning(new_run):
    run = new_run()
    for arm, batch in (("baseline", 16), ("optimized", 8)):
        run.record(run.cell(arm, setting=setting(batch, 1, "fp32")), 0, step_metrics(MIB, 1.0))
    [warning] = read_content(run.write()).report.warnings
    assert "effective batch (baseline 16, optimized 8)" in warning


def test_disagreeing_bytes_give_a_warning(new_run):
    run = new_run()
    cell = run.cell("baseline")
    for repeat, memory in enumerate((100, 100, 101)):
        run.record(cell, repeat, step_metrics(memory * MIB, 1.0))
    report = read_content(run.write()).report
    [warning] = report.warnings
    assert "DISAGREES: 100.0 MiB – 101.0 MiB, n = 3" in warning
    grid = section(report, "grid").tables[0]
    assert [cell.tone for cell in grid.rows[0].cells if cell.text == "100.0 MiB"] == ["warn"]


def test_traces_from_different_sources_get_no_ratio(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, step_metrics(800 * MIB, 1.0))
    run.record(run.cell("optimized"), 0, step_metrics(100 * MIB, 1.0, source="cpu-fake"))
    report = read_content(run.write()).report
    cell = report.headline.rows[1].cells[1]
    assert (cell.one_line, cell.tone) == ("100.0 MiB (not comparable)", "warn")
    assert "cpu-real against cpu-fake" in (cell.note or "")
    assert "8.0×" not in report.lead


def test_out_of_memory_is_a_result_with_its_reason(usual_run):
    report = read_content(usual_run).report
    row = next(row for row in section(report, "grid").tables[0].rows if row.cells[1].text == "batch_size 64")
    assert row.cells[2].text == "out of RAM"
    assert row.cells[2].note == "the kernel killed it: oom_kill rose by 1"
    assert {cell.text for cell in row.cells[3:-1]} == {"–"}
    assert row.cells[-1].text == "0/3"


def test_other_arm_has_no_ratio_when_the_reference_ran_out_of_memory(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, outcome=Outcome.OOM_GPU, reason="tried to allocate 9 GiB")
    run.record(run.cell("optimized"), 0, step_metrics(100 * MIB, 1.0))
    report = read_content(run.write()).report
    assert texts(report.headline)[0][1] == "–"
    assert report.headline.rows[0].cells[1].note == "out of GPU memory: tried to allocate 9 GiB"
    assert texts(report.headline)[1][1] == "100.0 MiB"
    assert report.lead.startswith("The arms' own settings cannot be compared")


def test_unavailable_reading_is_a_dash_with_its_reason(new_run):
    run = new_run()
    metrics = step_metrics(MIB, 1.0) | {"accuracy_top1": Metric.unavailable("ratio", "val split", "no val clips")}
    run.record(run.cell("baseline"), 0, metrics)
    epochs = epoch_metrics(0.5, 1.0) | {"accuracy_top1": Metric.unavailable("ratio", "val split", "no val clips")}
    run.record(run.cell("baseline", "train_epochs"), 0, epochs)
    report = read_content(run.write()).report
    accuracy = report.headline.rows[0].cells[-1]
    assert (accuracy.text, accuracy.note) == ("–", "no val clips")
    assert ["train_epochs", "Accuracy", "no val clips", "1"] in texts(section(report, "unread").tables[-1])


def test_gpu_memory_has_a_column_only_if_it_was_read(new_run, usual_run):
    assert "GPU memory allocated" not in [column.title for column in read_content(usual_run).report.headline.columns]
    run = new_run()
    allocated = Metric(value=3 * MIB, unit="bytes", source="torch.cuda", quality="exact")
    run.record(run.cell("baseline"), 0, step_metrics(MIB, 1.0) | {"peak_allocated_bytes": allocated})
    (run.directory / "grid.json").unlink()
    headline = read_content(run.write()).report.headline
    assert [column.title for column in headline.columns] == ["Arm", "Memory", "GPU memory allocated", "Step time"]
    assert headline.rows[0].cells[2].text == "3.0 MiB"


def test_inference_has_its_own_columns(new_run):
    run = new_run()
    for workload in ("inference", "train_step"):
        run.record(run.cell("baseline", workload), 0, step_metrics(MIB, 1.0))
    titles = [column.title for column in read_content(run.write()).report.headline.columns]
    assert titles == ["Arm", "Memory", "Step time", "Inference memory", "Inference step time"]


def test_name_of_an_unknown_workload_keeps_its_spelling(new_run):
    run = new_run()
    for arm, size in (("baseline", 8), ("optimized", 2)):
        run.record(run.cell(arm, "Tiny_Video"), 0, step_metrics(size * MIB, 1.0))
    report = read_content(run.write()).report
    titles = [column.title for column in report.headline.columns]
    assert titles == ["Arm", "Memory of Tiny_Video", "Step time of Tiny_Video"]
    assert report.lead.startswith("Memory of Tiny_Video 4.0× less (8.0 MiB → 2.0 MiB); step time of Tiny_Video")


def test_missing_runs_unknown_cells_and_broken_files_are_listed(new_run):
    run = new_run()
    cell = run.cell("baseline")
    run.record(cell, 0, step_metrics(MIB, 1.0))
    stray = run.cell("other")
    run.record(stray, 0, step_metrics(MIB, 1.0))
    run.entries.pop()
    directory = run.write()
    (directory / "records" / "broken.json").write_text("{")
    missing = section(read_content(directory).report, "missing")
    assert any("broken.json" in line for line in missing.paragraphs)
    assert any(stray in line for line in missing.paragraphs)
    assert texts(missing.tables[0])[0][-1] == "2 of 3 runs not made"


def test_report_of_a_complete_run_states_that_nothing_is_missing(new_run):
    run = new_run()
    time_s = Metric(value=1.0, unit="s", source="clock", quality="measured")
    run.record(run.cell("baseline", repeats=1), 0, {"step_time_s": time_s})
    missing = section(read_content(run.write()).report, "missing")
    assert missing.tables == ()
    assert missing.paragraphs[0].startswith("Nothing")


def test_cost_of_measuring_lists_the_first_cell_separately(new_run):
    run = new_run()
    cell = run.cell("baseline", repeats=4)
    for repeat, harness in enumerate((2.0, 0.1, 0.2, 0.3)):
        taken = Metric(value=harness, unit="s", source="parent", quality="measured")
        run.record(cell, repeat, step_metrics(MIB, 1.0) | {"harness_s": taken})
    rows = texts(section(read_content(run.write()).report, "cost").tables[0])
    assert rows[0] == ["harness, first cell", "2.00 s", "–", "1"]
    assert rows[1] == ["harness, later cells", "200.0 ms", "100.0 ms – 300.0 ms (min–max, n = 3)", "3"]
    assert ["Sampler's cost in time", "0.40 %", "0.40 % – 0.40 % (min–max, n = 4)", "4"] in rows


def test_methods_list_unknown_metrics_too(new_run):
    run = new_run()
    own = {"signs_s": Metric(value=1.0, unit="s", source="my clock", quality="measured")}
    run.record(run.cell("baseline"), 0, step_metrics(MIB, 1.0) | own)
    rows = {row[1]: row for row in texts(section(read_content(run.write()).report, "methods").tables[0])}
    assert rows["signs_s"][3:5] == ["my clock", "measured"]
    assert rows["peak_tensor_bytes"][3:5] == ["cpu-real", "exact"]
    assert "fragmentation" in rows["peak_tensor_bytes"][5]


def test_environment_shows_every_value_of_a_key_that_varies(new_run):
    run = new_run()
    cell = run.cell("baseline")
    for repeat, threads in enumerate((2, 4)):
        run.environment["threads"] = threads
        run.record(cell, repeat, step_metrics(MIB, 1.0))
    run.environment.pop("threads")
    rows = {row[0]: row[1] for row in texts(section(read_content(run.write()).report, "environment").tables[0])}
    assert rows["threads"] == "2 | 4"
    assert rows["source hash"] == "abc123"


def test_three_arms_each_have_a_change(new_run):
    run = fill_usual(new_run())
    run.record(run.cell("third"), 0, step_metrics(1600 * MIB, 1.0))
    report = read_content(run.write()).report
    assert report.title == "optimized against baseline, and 1 more"
    assert report.headline.rows[2].cells[1].one_line == "1.56 GiB (2.0× more)"


def test_directory_without_manifest_is_refused_with_the_cure(tmp_path):
    with pytest.raises(ConfigError, match=r"no grid\.json and no record; give the directory that `slr-bench run`"):
        read_content(tmp_path)


def test_traces_on_fake_tensors_are_not_called_measured(new_run):
    run = new_run()
    for arm, size in (("baseline", 8), ("optimized", 2)):
        memory = {"peak_tensor_bytes": step_metrics(size * MIB, 1.0, "cpu-fake")["peak_tensor_bytes"]}
        run.record(run.cell(arm), 0, memory)
    report = read_content(run.write()).report
    assert report.measured.startswith("Traced on fake tensors for cpu: no data, nothing computed; clips of 16 frames")
    assert "Fake CPU" not in report.measured
    assert [(card.title, card.chip) for card in report.cards] == [("Memory", "fake tensors")]
    assert '<h3>Memory <span class="chip">fake tensors</span></h3>' in render_html(report)
    assert "Traced on fake tensors" in headline_table(report)


def test_measured_figures_have_no_chip(usual_run):
    assert {card.chip for card in read_content(usual_run).report.cards} == {""}


def test_missing_time_of_fake_tensors_is_explained(new_run):
    run = new_run()
    traced = {"peak_tensor_bytes": step_metrics(MIB, 1.0, source="cuda-fake")["peak_tensor_bytes"]}
    run.record(run.cell("baseline"), 0, traced)
    time = read_content(run.write()).report.headline.rows[0].cells[2]
    assert (time.text, time.note) == ("–", "traced on fake tensors: bytes are counted, but nothing is computed")


RUN = "slr-bench run 'my grid.yml' --device cpu"


def test_commands_run_profile_and_report_the_same_grid():
    assert commands(f"{RUN} --fake --out=reports/x", ["baseline", "it's"]).splitlines() == [
        f"{RUN} --fake --out=reports/x  # measure it",
        """slr-bench profile 'my grid.yml' --arm 'it'"'"'s' --fake  # every byte of one step, by tensor""",
        "slr-bench report reports/x  # this report",
    ]
    assert commands(RUN, []).splitlines()[-1] == "slr-bench report reports/latest  # this report"
    assert commands(f"{RUN} --out 'a b'", []).splitlines()[-1] == "slr-bench report 'a b'  # this report"


@pytest.mark.parametrize("command", ["make bench", "slr-bench run", "slr-bench run --out x", "it's", "not known", ""])
def test_other_command_is_returned_alone(command):
    assert commands(command, ["baseline"]) == command


def test_command_is_one_line_of_limited_length():
    assert commands("a\nb\x1b[2J" + "x" * 9000, []).startswith("a b [2Jx")
    assert len(commands("x" * 9000, [])) == 2000
