"""``compare`` and ``gate`` on run directories: every exit code, every output, every bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from fake_runs import MIB
from side_runs import HOSTILE, failed, filled, in_turn, side_run, with_sides

from slr_bench.record import Outcome

STEADY = [1.0, 1.1, 0.9, 1.05, 1.0, 0.95, 1.02, 1.0]
BYTES = ("--rule", "peak_tensor_bytes:0%")


@pytest.fixture
def sides(tmp_path):
    """``sides(head=1005)`` -> names of two run directories in the place where the command runs."""

    def make(base=1000, head=1000, **options):
        for name, size in (("base", base), ("head", head)):
            run = side_run(tmp_path / name)
            if size is None:
                failed(run, options.get("outcome", Outcome.CRASH), options.get("reason", "ended by SIGKILL"))
            else:
                filled(run, size)
            run.write()
        return "base", "head"

    return make


def test_0_equal_bytes_pass(slr_bench, sides):
    done = slr_bench("gate", *sides(), *BYTES)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith("passed: 0 of 1 rules broken (exit code 0)")


def test_0_fewer_bytes_pass_and_the_baseline_can_be_renewed(slr_bench, sides):
    done = slr_bench("gate", *sides(head=900), *BYTES)
    assert done.returncode == 0
    assert "1 better: baseline can be renewed" in " ".join(done.stdout.split())


def test_1_half_a_percent_more_bytes_is_a_regression(slr_bench, sides):
    done = slr_bench("gate", *sides(head=1005), *BYTES)
    assert (done.returncode, done.stderr) == (1, "")
    assert "+0.50 %" in done.stdout
    assert "REGRESSION" in done.stdout


def test_1_a_slower_side_of_one_run_is_a_regression(slr_bench, tmp_path):
    with_sides(side_run(tmp_path / "run"), STEADY, [1.15 * time_s for time_s in STEADY]).write()
    assert slr_bench("gate", "run", "--rule", "step_time_s:10%").returncode == 1
    assert slr_bench("gate", "run", "--rule", "step_time_s:20%").returncode == 0


@pytest.mark.parametrize("allowed", [False, True])
def test_1_a_missing_cell_is_a_regression_unless_it_is_allowed(slr_bench, tmp_path, allowed):
    filled(filled(side_run(tmp_path / "base")), arm="old").write()
    filled(side_run(tmp_path / "head")).write()
    done = slr_bench("gate", "base", "head", *BYTES, *(("--allow-missing", "ol?") if allowed else ()))
    assert done.returncode == (0 if allowed else 1)
    assert ("Missing in the head" in done.stdout) is not allowed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "no rule: name the metrics that must not get worse"),
        (("--rule", "peak_tensor_bytes"), "is not METRIC:LIMIT"),
        (("--rule", "peak_tensor_bytes:lots"), "limit 'lots' is not an amount with a unit"),
        (("--rule", "peak_tensor_byte:0%"), "did you mean 'peak_tensor_bytes'"),
        (("--rule", "peak_tensor_bytes:5s"), "is in bytes, the limit in seconds"),
        (("--rules", "absent.yml"), "cannot read configuration absent.yml"),
        ((*BYTES, "--arm", "tniy"), "--arm: the base has no arm 'tniy'; did you mean 'tiny'"),
        ((*BYTES, "--set", "a=1"), "--set says what to measure, and base was measured before; leave it out"),
        ((*BYTES, "--repeats", "24"), "--repeats says what to measure"),
        ((*BYTES, "--markdown", "no/such/place.md"), "cannot write no/such/place.md: there is no directory no/such"),
        ((*BYTES, "--junit", "base"), "cannot write base: Is a directory; choose another path"),
    ],
)
def test_2_a_user_mistake_is_reported_in_one_line(slr_bench, sides, options, words):
    done = slr_bench("gate", *sides(), *options, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert all(line.startswith("slr-bench: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize("command", [("compare",), ("gate", *BYTES)])
@pytest.mark.parametrize(
    ("break_it", "base_code", "head_code", "words"),
    [
        (lambda path: None, 3, 5, "is not a run directory: it has no grid.json"),
        (lambda path: (path / "grid.json").write_text('{"schema": 1'), 3, 5, "is not a readable manifest"),
        (lambda path: (path / "grid.json").write_text('{"schema": 99}'), 3, 5, "measure it again with this version"),
    ],
)
def test_3_and_5_a_path_without_a_run(slr_bench, sides, tmp_path, command, break_it, base_code, head_code, words):
    good = sides()[0]
    (tmp_path / "other").mkdir()
    break_it(tmp_path / "other")
    name, *options = command
    for arguments, code in ((("other", good), base_code), ((good, "other"), head_code)):
        done = slr_bench(name, *arguments, *options)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_3_and_5_records_that_cannot_be_read(slr_bench, sides, tmp_path):
    for which, code in (("base", 3), ("head", 5)):
        sides()
        for number, path in enumerate(sorted((tmp_path / which / "records").iterdir())):
            path.write_text([path.read_text()[:100], '{"schema": 2}', "[NaN]"][number])
        done = slr_bench("gate", "base", "head", *BYTES)
        assert (done.returncode, done.stdout) == (code, "")
        assert f"none of the 3 records in {which} can be read" in done.stderr


def test_3_a_base_with_only_failures(slr_bench, sides):
    done = slr_bench("gate", *sides(base=None), *BYTES)
    assert done.returncode == 3
    assert "no run of the base (base) was measured; they ended as crash: ended by SIGKILL" in done.stderr


def test_4_times_from_separate_runs_unless_the_rule_is_optional(slr_bench, sides):
    rule = "step_time_s:10%"
    done = slr_bench("gate", *sides(), *BYTES, "--rule", rule)
    assert done.returncode == 4
    assert "measure both sides interleaved" in " ".join(done.stdout.split())
    assert slr_bench("gate", "base", "head", *BYTES, "--rule", f"{rule}:optional").returncode == 0


def test_4_cells_without_a_common_setting(slr_bench, tmp_path):
    filled(side_run(tmp_path / "base"), arm="one").write()
    filled(side_run(tmp_path / "head"), arm="other").write()
    for command in (("compare",), ("gate", *BYTES)):
        done = slr_bench(command[0], "base", "head", *command[1:])
        assert (done.returncode, done.stdout) == (4, "")
        assert "no cell in common: the base has c000 (one), the head c000 (other)" in done.stderr


def test_4_a_directory_with_one_side(slr_bench, sides):
    sides()
    done = slr_bench("gate", "base", *BYTES)
    assert done.returncode == 4
    assert "has records of side a only; measure both sides, or name two directories" in done.stderr


def test_4_a_baseline_without_the_metric(slr_bench, tmp_path):
    base, head = filled(side_run(tmp_path / "base")), filled(side_run(tmp_path / "head"))
    for record, _ in base.records:
        del record.metrics["rss_over_start_bytes"]
    base.write(), head.write()
    done = slr_bench("gate", "base", "head", "--rule", "rss_over_start_bytes:100MiB")
    assert done.returncode == 4
    assert "base did not measure rss_over_start_bytes" in done.stdout


def test_5_a_head_that_this_machine_cannot_run(slr_bench, sides):
    done = slr_bench("gate", *sides(head=None, outcome=Outcome.UNSUPPORTED, reason="no bf16"), *BYTES)
    assert (done.returncode, done.stdout) == (5, "")
    assert "unsupported: no bf16" in done.stderr


def test_7_a_cell_of_the_head_crashed(slr_bench, sides, tmp_path):
    done = slr_bench("gate", *sides(head=None), *BYTES, "--markdown", "g.md")
    assert (done.returncode, done.stderr) == (7, "")
    assert "base 3 ok, head 1 crash" in done.stdout
    assert "ended by SIGKILL" in (tmp_path / "g.md").read_text()
    assert slr_bench("compare", "base", "head").returncode == 7
    filled(filled(side_run(tmp_path / "b")), arm="second").write()
    failed(filled(side_run(tmp_path / "h")), Outcome.TIMEOUT, "still running", arm="second").write()
    part = slr_bench("gate", "b", "h", *BYTES)
    assert part.returncode == 7
    assert "A CELL CRASHED" in part.stdout


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("absent", "head", *BYTES), 3, "base 'absent' is neither a run directory nor a revision"),
        (("base", "head", "--rule", "peak_tensor_byte:0%"), 2, "did you mean 'peak_tensor_bytes'"),
        (("base", "head"), 2, "no rule: name the metrics that must not get worse"),
        (("base", "head", *BYTES, "--bmf", "no/such/place.json"), 2, "there is no directory no/such"),
        (("base", "other", *BYTES), 4, "no cell in common"),
    ],
)
def test_after_an_error_no_file_has_an_earlier_verdict(slr_bench, sides, tmp_path, options, code, words):
    sides()
    filled(side_run(tmp_path / "other"), arm="other").write()
    files = {"--markdown": "g.md", "--junit": "g.xml", "--smaller-is-better": "s.json"}
    outputs = [word for pair in files.items() for word in pair]
    assert slr_bench("gate", "base", "head", *BYTES, *outputs).returncode == 0
    assert slr_bench("gate", *options, *outputs).returncode == code
    page = (tmp_path / "g.md").read_text()
    assert page.startswith("### ⚠️ NO VERDICT: ")
    assert page.endswith(f"(exit code {code})\n")
    assert not (tmp_path / "s.json").exists()
    [error] = ElementTree.parse(tmp_path / "g.xml").getroot().iter("error")
    assert words in error.text
    assert error.text.endswith(f"(exit code {code})")


def test_a_symbolic_link_is_kept_and_its_target_written(slr_bench, sides, tmp_path):
    (tmp_path / "kept.md").write_text("old")
    (tmp_path / "link.md").symlink_to("kept.md")
    assert slr_bench("gate", *sides(), *BYTES, "--markdown", "link.md").returncode == 0
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "kept.md").read_text().startswith("### ✅ passed")


def test_every_output_at_once_and_nothing_but_json_on_stdout(slr_bench, tmp_path):
    filled(side_run(tmp_path / "base"), 1000, arm=HOSTILE).write()
    filled(side_run(tmp_path / "head"), 1005, arm=HOSTILE).write()
    (tmp_path / "rules.yml").write_text("rules: {peak_tensor_bytes: 0%, step_time_s: {limit: 10%, optional: true}}")
    files = {
        "--markdown": "gate.md",
        "--junit": "gate.xml",
        "--bmf": "bmf.json",
        "--smaller-is-better": "smaller.json",
    }
    options = [word for pair in files.items() for word in pair]
    done = slr_bench("gate", "base", "head", "--rules", "rules.yml", "--json", *options)
    assert (done.returncode, done.stderr) == (1, "")
    values = json.loads(done.stdout)
    assert [(rule["verdict"], len(rule["cells"])) for rule in values["rules"]] == [("fail", 1), ("skipped", 0)]
    assert len(done.stdout) < 60_000
    assert "\u202e" not in json.dumps(values, ensure_ascii=False)
    assert (tmp_path / "gate.md").read_text().startswith("### ❌ REGRESSION")
    assert ElementTree.parse(tmp_path / "gate.xml").getroot().tag == "testsuites"
    [benchmark] = json.loads((tmp_path / "bmf.json").read_text()).values()
    assert benchmark["peak_tensor_bytes"]["value"] == 1005
    assert {entry["unit"] for entry in json.loads((tmp_path / "smaller.json").read_text())} == {"bytes", "s", "1"}


def test_compare_prints_and_writes_and_always_exits_with_0(slr_bench, tmp_path):
    for name, times in (("base", STEADY), ("head", [2 * time_s for time_s in STEADY])):
        in_turn(
            filled(side_run(tmp_path / name), 1000 if name == "base" else 1005, times), name=f"{name} (1a2b)"
        ).write()
    done = slr_bench("compare", "base", "head", "--markdown", "c.md")
    assert (done.returncode, done.stderr) == (0, "")
    assert "base (1a2b) → head (1a2b)" in done.stdout
    text = (tmp_path / "c.md").read_text()
    assert "| train\\_step tiny | Step time | 1.00 s | 2.00 s |" in text
    values = json.loads(slr_bench("compare", "base", "head", "--json").stdout)
    time = next(cell for cell in values["cells"] if cell["metric"] == "step_time_s")
    assert (time["ratio"], time["significant"], time["n"]) == (pytest.approx(2.0), True, 8)
    assert {"cells", "overall", "unmatched", "base", "head"} <= values.keys()


def test_a_hostile_name_in_an_error_is_one_printable_line(slr_bench, tmp_path):
    filled(side_run(tmp_path / "base"), arm=HOSTILE).write()
    failed(side_run(tmp_path / "crashed"), reason=HOSTILE, arm=HOSTILE).write()
    filled(side_run(tmp_path / "other"), arm="other").write()
    for base, head in (("base", "other"), ("crashed", "base")):
        done = slr_bench("compare", base, head)
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.strip().isprintable()
        assert len(done.stderr) < 1000


def test_importing_the_gate_does_not_import_torch(tmp_path):
    """It runs in every commit's CI."""
    for name in ("base", "head"):
        filled(side_run(tmp_path / name), 100 * MIB).write()
    code = "import sys; from slr_bench.cli import main\ntry: main()\n"
    code += "finally: print('torch' in sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "gate", "base", "head", *BYTES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "False\n")
