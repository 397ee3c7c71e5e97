"""Commands whose reader has gone, and the Python interface."""

import subprocess
import sys

import pytest

import slr_bench
from slr_bench import api

COMMAND = [sys.executable, "-m", "slr_bench"]


@pytest.mark.parametrize("arguments", [["schema"], ["--help"], ["doctor", "--json"]])
def test_a_reader_that_goes_ends_a_command_quietly_and_never_with_code_1(arguments):
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    _, errors = process.communicate(timeout=60)
    assert errors == b""
    assert process.returncode in (0, 141)


def test_a_closed_output_is_no_error():
    done = subprocess.run(f"'{sys.executable}' -m slr_bench schema >&-", shell=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_version_is_printed():
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"slr-bench {slr_bench.__version__}\n")


@pytest.mark.parametrize("name", ["run", "predict", "compare", "plan", "profile", "gate", "watch"])
def test_the_package_offers_the_functions_of_the_interface(monkeypatch, name):
    monkeypatch.setattr(api, name, lambda *arguments: (name, *arguments))
    assert getattr(slr_bench, name)("grid.yml") == (name, "grid.yml")
    assert name in dir(slr_bench)
