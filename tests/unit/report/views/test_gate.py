"""The gate's verdict as terminal text, Markdown and JUnit XML, and values for services that keep a history."""

from __future__ import annotations

import io
import json
import re
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from rich.console import Console
from side_runs import HOSTILE, failed, filled, side_run

from slr_bench.compare.comparison import compare_runs
from slr_bench.compare.gate import judge_gate
from slr_bench.compare.rules import gather_rules
from slr_bench.record import Outcome
from slr_bench.report.views.ci import bencher_metrics, gate_junit, no_verdict_junit, smaller_is_better
from slr_bench.report.views.gate import gate_markdown, no_verdict, no_verdict_markdown, print_gate

RULES = ("peak_tensor_bytes:0%", "step_time_s:10%:optional", "rss_over_start_bytes:0%")


def answered(place, name="tiny", reason="ended by SIGKILL", size=1005):
    """Bytes that grew in one cell and shrank in another, a cell that is gone, one that crashed, one out of memory."""
    base, head = side_run(place / "base"), side_run(place / "head")
    for run, sizes in ((base, (1000, 1000)), (head, (size, 900))):
        filled(run, sizes[0], arm=name)
        filled(run, sizes[1], arm="second")
    filled(base, arm="third")
    failed(head, reason=reason, arm="third")
    filled(base, arm="fourth")
    failed(head, Outcome.OOM_HOST, reason, arm="fourth")
    filled(base, arm=f"gone {name}")
    return judge_gate(compare_runs(base.write(), head.write()), gather_rules(RULES, [], []))


def terminal_text(result, width=160) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_gate(result, console)
    return console.file.getvalue()


def test_the_terminal_ends_with_the_verdict_and_names_the_cells_behind_it(tmp_path):
    text = terminal_text(answered(tmp_path), 200)
    last = text.strip().splitlines()[-1]
    assert last == (
        "REGRESSION: 1 of 3 rules broken, 1 not judged, 2 judged in part, 1 cell missing, 1 cell out of memory, 1 cell "
        "crashed, 1 better: baseline can be renewed (exit code 1)"
    )
    words = " ".join(text.split())
    assert "train_step tiny Metric Base Head Change Verdict" in words
    assert "Tensor memory 1000 B 1005 B +0.50 % worse" in words
    assert "Tensor memory 1000 B 900 B -10.00 % better" in words
    for caption in ("Missing in the head", "Out of memory in the head", "Crashed in the head", "Not judged"):
        assert caption in text


def test_a_passing_gate_prints_no_empty_table(tmp_path):
    runs = [filled(side_run(tmp_path / name)).write() for name in ("base", "head")]
    result = judge_gate(compare_runs(*runs), gather_rules(RULES[:2], [], []))
    text = terminal_text(result)
    assert text.strip().splitlines()[-1] == "passed: 0 of 2 rules broken, 1 not judged (exit code 0)"
    assert "Missing" not in text
    markdown = gate_markdown(result)
    assert markdown.startswith("### ✅ passed: 0 of 2 rules broken, 1 not judged (exit code 0)\n")
    assert markdown.count("**") == 2 * 3  # captions of the rules and of what is folded


def test_markdown_shows_what_broke_and_folds_the_rest(tmp_path):
    text = gate_markdown(answered(tmp_path))
    assert text.startswith("### ❌ REGRESSION: 1 of 3 rules broken")
    open_part, folded = text.split("<details>", 1)
    assert "| **peak\\_tensor\\_bytes:0%** | **fail** | **1** | **2** | **4, 1 better** |" in open_part
    assert "| train\\_step tiny | Tensor memory | 1000 B | 1005 B | +0.50 % | worse |" in open_part
    assert "gone tiny" in open_part
    assert "Step time" not in open_part
    assert "Cells that optional rules skipped" in folded
    assert text.count("<details>") == text.count("</details>") == 2


def test_in_80_columns_cells_are_whole_lines_and_each_reason_is_printed_once(tmp_path):
    base, head = side_run(tmp_path / "base"), side_run(tmp_path / "head")
    for run in (base, head):
        filled(run, arm="kept", times=[1.0])
    for arm in ("one", "two", "blocks recomputed in half precision", "frames left out by their motion"):
        filled(base, arm=arm, times=[1.0])
    for arm in ("one", "two"):
        failed(head, arm=arm, reason="the loader's process ended: no space left on /dev/shm for a batch of 16 frames")
    text = terminal_text(judge_gate(compare_runs(base.write(), head.write()), gather_rules(RULES[:1], [], [])), 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  - train_step blocks recomputed in half precision (c003)" in lines
    assert "  - train_step frames left out by their motion (c004)" in lines
    assert "    - train_step one: base 1 ok, head 1 crash" in lines
    words = " ".join(text.split())
    assert words.count("no space left on /dev/shm for a batch of 16 frames:") == 1  # of those that crashed
    assert words.count("no space left on /dev/shm for a batch of 16 frames):") == 1  # of what that leaves not judged
    assert text.count("blocks recomputed in half precision") == 1


@pytest.mark.parametrize("rule", ["step_time_s:10%:optional", "peak_allocated_bytes:0%:optional"])
def test_every_output_reports_that_nothing_could_be_judged(tmp_path, rule):
    runs = [filled(side_run(tmp_path / name)).write() for name in ("base", "head")]
    result = judge_gate(compare_runs(*runs), gather_rules([rule], [], []))
    line = "passed: 0 of 1 rules broken, 1 not judged (exit code 0)"
    assert terminal_text(result).strip().splitlines()[-1] == line
    assert gate_markdown(result).startswith(f"### ⚠️ {line}\n")
    suite = ElementTree.fromstring(gate_junit(result))[0]
    assert (suite.attrib["tests"], suite.attrib["skipped"]) == ("1", "1")
    assert {one.attrib["name"]: one.attrib["value"] for one in suite.iter("property")}["verdict"] == line


def cells_of(line: str) -> int:
    return len(re.split(r"(?<!\\)\|", line)) - 2


def test_hostile_names_and_reasons_stay_text_in_markdown(tmp_path):
    text = gate_markdown(answered(tmp_path, HOSTILE, HOSTILE))
    assert len(text) < 60_000
    assert set(re.findall(r"</?(\w+)", text)) <= {"details", "summary", "sup", "br"}
    assert not re.search(r"@\w|#\d", text)
    assert not {char for char in text if not char.isprintable()} - {"\n", "\u2060", "\ufe0f"}
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 7
    for block in tables:
        assert len({cells_of(line) for line in block.splitlines()}) == 1


def test_parts_too_long_for_a_comment_are_left_out_and_counted(tmp_path):
    base, head = side_run(tmp_path / "base"), side_run(tmp_path / "head")
    for number in range(70):
        name = f"arm{number} " + "<|" * 70
        filled(base, times=[1.0], arm=name)
        filled(head, 101 * 1024**2, times=[1.0], arm=name) if number % 2 else failed(head, reason="<" * 300, arm=name)
    result = judge_gate(compare_runs(base.write(), head.write()), gather_rules([*RULES, "parameters:0%"], [], []))
    text = gate_markdown(result)
    assert len(text) < 65_536
    assert text.startswith("### ❌ REGRESSION: 1 of 4 rules broken")
    assert "parts are too long for a comment; the output of --json has all." in text


def test_hostile_names_and_reasons_stay_text_in_the_terminal(tmp_path):
    text = terminal_text(answered(tmp_path, HOSTILE, HOSTILE), 80)
    assert not {char for char in text if not char.isprintable()} - {"\n"}
    assert len(text) < 60_000


SUITE = {"name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "skipped", "time"}
STATES = {"failure": "failures", "error": "errors", "skipped": "skipped"}


@pytest.mark.parametrize("name", ["tiny", HOSTILE], ids=["plain", "hostile"])
def test_junit_is_valid_for_ant_and_jenkins(tmp_path, name):
    """Elements, their order, and attributes as JUnit.xsd (windyroad) demands, which is the stricter of the two."""
    text = gate_junit(answered(tmp_path, name, name))
    keeps_to_the_schema(text, 4)
    assert len(text) < 40_000


@pytest.mark.parametrize("reason", ["no such base", HOSTILE], ids=["plain", "hostile"])
def test_junit_without_a_verdict_is_valid_and_escaped(reason):
    text = no_verdict(reason, 3)
    keeps_to_the_schema(no_verdict_junit(text), 1)
    [suite] = ElementTree.fromstring(no_verdict_junit(text))
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
    page = no_verdict_markdown(text)
    assert page.count("\n") == 1
    assert "<script" not in page


def keeps_to_the_schema(text, suites):
    root = ElementTree.fromstring(text)
    assert (root.tag, root.attrib) == ("testsuites", {})
    assert [suite.attrib["id"] for suite in root] == [str(number) for number in range(suites)]
    for suite in root:
        assert (suite.tag, suite.attrib.keys()) == ("testsuite", SUITE)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
        first, *cases, out, err = suite
        assert (first.tag, out.tag, err.tag) == ("properties", "system-out", "system-err")
        assert all(set(one.attrib) == {"name", "value"} for one in first)
        for case in cases:
            assert (case.tag, case.attrib.keys()) == ("testcase", {"name", "classname", "time"})
            assert Decimal(case.attrib["time"]) >= 0
            assert [state.tag for state in case] in ([], ["failure"], ["error"], ["skipped"])
            assert all(set(state.attrib) == {"message", "type"} for state in case)
            for token in (case.attrib["name"], case.attrib["classname"], suite.attrib["name"]):
                assert token == " ".join(token.split()) != ""
        assert int(suite.attrib["tests"]) == len(cases)
        for state, count in STATES.items():
            assert int(suite.attrib[count]) == len(suite.findall(f"testcase/{state}"))


def test_junit_has_failures_for_broken_rules_errors_for_unjudged_ones_and_skips_for_optional_ones(tmp_path):
    memory, time, ram, cells = ElementTree.fromstring(gate_junit(answered(tmp_path)))
    assert (memory.attrib["failures"], memory.attrib["errors"]) == ("1", "2")  # those that crashed or ran out
    [failure] = memory.findall("testcase/failure")
    assert failure.attrib["message"] == "peak_tensor_bytes: 1000 B -> 1005 B (+0.50 %)"
    assert (time.attrib["failures"], time.attrib["errors"], time.attrib["skipped"]) == ("0", "0", "4")
    assert (ram.attrib["failures"], ram.attrib["errors"]) == ("0", "3")
    assert (cells.attrib["tests"], cells.attrib["failures"], cells.attrib["errors"]) == ("5", "2", "1")


def test_a_rule_without_any_cell_is_a_test_case(tmp_path):
    runs = [filled(side_run(tmp_path / name)).write() for name in ("base", "head")]
    rules = gather_rules(["peak_allocated_bytes:0%"], [], [])
    suite = ElementTree.fromstring(gate_junit(judge_gate(compare_runs(*runs), rules)))[0]
    assert (suite.attrib["tests"], suite.attrib["errors"]) == ("1", "1")
    assert "no caching allocator" in suite.find("testcase/error").text


def test_bencher_gets_the_heads_values_and_ranges(tmp_path):
    base = filled(side_run(tmp_path / "base"), times=(9.0, 9.0, 9.0)).write()
    head = filled(side_run(tmp_path / "head"), 1005, times=(1.0, 3.0, 2.0)).write()
    values = json.loads(bencher_metrics(compare_runs(base, head)))
    assert values.keys() == {"train_step tiny"}
    measures = values["train_step tiny"]
    assert measures["step_time_s"] == {"value": 2.0, "lower_value": 1.0, "upper_value": 3.0}
    assert measures["peak_tensor_bytes"] == {"value": 1005, "lower_value": 1005, "upper_value": 1005}
    assert all({"value"} <= measure.keys() <= {"value", "lower_value", "upper_value"} for measure in measures.values())


def test_smaller_is_better_leaves_out_metrics_for_which_larger_is_better(tmp_path):
    base = filled(side_run(tmp_path / "base"), 1000).write()
    head = filled(side_run(tmp_path / "head"), 1005, times=(1.0, 3.0, 2.0)).write()
    entries = json.loads(smaller_is_better(compare_runs(base, head)))
    by_name = {entry["name"]: entry for entry in entries}
    assert by_name["train_step tiny: peak_tensor_bytes"] == {
        "name": "train_step tiny: peak_tensor_bytes",
        "unit": "bytes",
        "value": 1005,
        "range": "1005 B – 1005 B",
        "extra": "base → head: +0.50 %, worse",
    }
    assert by_name["train_step tiny: step_time_s"]["range"] == "1.00 s – 3.00 s"
    assert not [name for name in by_name if "throughput" in name]


def test_exports_have_no_nan_or_null_and_unique_short_names(tmp_path):
    runs = [side_run(tmp_path / name) for name in ("base", "head")]
    for run in runs:
        filled(run, arm=HOSTILE)
        filled(run, arm=HOSTILE)
        filled(run, arm="third")
    failed(runs[0], arm="only head measured")
    filled(runs[1], arm="only head measured")
    comparison = compare_runs(*(run.write() for run in runs))
    benchmarks = json.loads(bencher_metrics(comparison))
    assert len(benchmarks) == 4
    assert all(len(name) <= 1024 and name.isprintable() for name in benchmarks)
    assert all(len(measure) <= 64 for one in benchmarks.values() for measure in one)
    entries = json.loads(smaller_is_better(comparison))
    assert len({entry["name"] for entry in entries}) == len(entries)
    for entry in entries:
        assert isinstance(entry["value"], int | float)
        assert all(isinstance(entry[key], str) and len(entry[key]) < 700 for key in ("name", "unit", "range", "extra"))
