"""Committed reports are what the code at hand makes of the records beside them."""

from __future__ import annotations

import difflib
import shutil
import subprocess
from pathlib import Path

import pytest

from slr_bench.report.run_report.write import write_reports

ROOT = Path(__file__).resolve().parents[2]
CURE = "run: python -m slr_bench report {}, look at the difference, and commit it"


def _committed() -> list[str]:
    """Run directories under ``reports/`` that git knows: new, uncommitted ones are not checked."""
    listed = ["git", "-C", str(ROOT), "ls-files", "reports/**/grid.json"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    there = [str(path.relative_to(ROOT)) for path in ROOT.glob("reports/**/grid.json")]
    paths = done.stdout.split() if done.returncode == 0 else there
    return sorted(str(Path(path).parent) for path in paths)


RUNS = _committed()


def test_there_are_committed_runs():
    assert len(RUNS) >= 6
    assert {"reports/baseline/fake", "reports/ablation_cpu_2026-11-28"} <= set(RUNS)


@pytest.fixture(scope="module", params=RUNS)
def drawn(request, tmp_path_factory) -> tuple[Path, Path]:
    """A committed run directory, and a copy with the report made anew."""
    kept = ROOT / request.param
    again = tmp_path_factory.mktemp("again") / kept.name
    shutil.copytree(kept, again)
    for name in ("report.md", "report.html"):
        (again / name).unlink(missing_ok=True)
    write_reports(again)
    return kept, again


@pytest.mark.parametrize("name", ["report.md", "report.html"])
def test_committed_report_matches_the_current_code(drawn, name):
    kept, again = drawn
    made = (again / name).read_text(encoding="utf-8")
    assert made.count("MiB") + made.count("GiB") > 0
    committed = (kept / name).read_text(encoding="utf-8") if (kept / name).exists() else made
    lines = difflib.unified_diff(committed.splitlines(), made.splitlines(), "committed", "made", lineterm="", n=0)
    first = "\n".join(line[:200] for line in list(lines)[:12])
    assert committed == made, f"{first}\n{CURE.format(kept.relative_to(ROOT))}"


def test_every_picture_of_a_committed_report_exists(drawn):
    kept, again = drawn
    text = (again / "report.md").read_text(encoding="utf-8")
    linked = {piece.partition(")")[0] for piece in text.split("](")[1:] if piece.startswith("figures/")}
    assert all((again / path).is_file() for path in linked)
    if (kept / "figures").exists():
        assert linked == {f"figures/{path.name}" for path in (kept / "figures").iterdir()}
