"""Targets of the Makefile that set themselves up, with programs that only write down how they are called."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """#!/bin/bash
echo "$(basename "$0") $*" >> "{log}"
case "$*" in *"import {module}"*) [ -e "{installed}" ];; *"pip install"*) touch "{installed}";; esac
"""


@pytest.fixture
def make(tmp_path):
    """``make("docs", "material")`` runs a target twice, at first without the module, and returns the calls of both."""

    def run(target, module, installer):
        venv, log, tools = tmp_path / "venv", tmp_path / "log", tmp_path / "tools"
        programs = [venv / "bin" / name for name in ("python", "mkdocs", "pytest")]
        programs += [tools / name for name in ("chromium", "uv") if name == "chromium" or installer == "uv"]
        for path in programs:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(PROGRAM.format(log=log, module=module, installed=tmp_path / "installed"))
            path.chmod(0o755)
        (venv / ".ready").touch()  # newer than pyproject.toml
        calls = []
        for _ in range(2):
            log.write_text("")
            environment = {**os.environ, "PATH": f"{tools}:/usr/bin:/bin"}
            done = subprocess.run(
                ["make", target, f"VENV={venv}"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            lines = [line for line in log.read_text().splitlines() if "import " not in line]
            calls.append([line.replace(f"{venv}/bin/", "") for line in lines])
        return calls

    return run


@pytest.mark.parametrize(
    ("installer", "install"), [("pip", "python -m pip install -q"), ("uv", "uv pip install -q -p python")]
)
@pytest.mark.parametrize(
    ("target", "module", "extra", "work"),
    [
        ("docs", "material", "docs", "mkdocs build --strict"),
        ("test-browser", "playwright", "browser", "pytest tests/browser -m browser"),
    ],
)
def test_target_installs_what_it_lacks_and_only_that(make, installer, install, target, module, extra, work):
    if installer == "pip" and any(Path(place, "uv").exists() for place in ("/usr/bin", "/bin")):
        pytest.skip("uv is installed for the whole machine, and make prefers it")
    first, second = make(target, module, installer)
    assert first == [f"{install} -c constraints.txt -e .[{extra}]", work]
    assert second == [work]
