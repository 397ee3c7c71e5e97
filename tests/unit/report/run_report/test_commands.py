"""The commands at the end of a report."""

import pytest

from slr_bench.report.run_report.content import commands

RUN = "slr-bench run 'my grid.yml' --device cpu"


def test_run_profile_and_report_of_the_same_grid():
    assert commands(f"{RUN} --fake --out=reports/x", ["baseline", "it's"]).splitlines() == [
        f"{RUN} --fake --out=reports/x  # measure it",
        """slr-bench profile 'my grid.yml' --arm 'it'"'"'s' --fake  # every byte of one step, by tensor""",
        "slr-bench report reports/x  # this report",
    ]
    assert commands(RUN, []).splitlines()[-1] == "slr-bench report reports/latest  # this report"
    assert commands(f"{RUN} --out 'a b'", []).splitlines()[-1] == "slr-bench report 'a b'  # this report"


@pytest.mark.parametrize("command", ["make bench", "slr-bench run", "slr-bench run --out x", "it's", "not known", ""])
def test_another_command_stands_alone(command):
    assert commands(command, ["baseline"]) == command


def test_a_command_is_one_line_and_not_endless():
    assert commands("a\nb\x1b[2J" + "x" * 9000, []).startswith("a b [2Jx")
    assert len(commands("x" * 9000, [])) == 2000
