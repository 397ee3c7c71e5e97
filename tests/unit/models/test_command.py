"""Exit codes and messages that the commands of the recogniser share."""

import argparse
import subprocess
import sys

import pytest

from models.command import OneLineParser, add_checkpoint_options, run_command
from slr_bench.errors import ConfigError, NotComparableError


def raising(error: BaseException):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 2, 2, ""),
        (raising(ConfigError("no such file; check --config")), 2, "error: no such file; check --config\n"),
        (raising(NotComparableError("no cell in common")), 4, "error: no cell in common\n"),
        (raising(KeyboardInterrupt()), 130, "error: interrupted; nothing was written\n"),
    ],
)
def test_each_ending_has_a_code_and_at_most_one_line(work, code, line, capsys):
    assert run_command(work, "nothing was written") == code
    assert capsys.readouterr() == ("", line)


def test_what_an_interruption_leaves_is_asked_when_it_happens(capsys):
    left = []
    work = raising(KeyboardInterrupt())
    assert run_command(work, lambda: f"{left.append(1) or len(left)} file is kept") == 130
    assert capsys.readouterr().err == "error: interrupted; 1 file is kept\n"


def test_closed_pipe_ends_a_command_quietly():
    code = (
        "import os, sys\nfrom models.command import run_command\n"
        "def work():\n    while True: print('line', flush=True)\n"
        "sys.exit(run_command(work, ''))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_unexpected_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()), "")


def test_wrong_option_is_an_error_of_one_line():
    parser = OneLineParser()
    add_checkpoint_options(parser)
    with pytest.raises(ConfigError, match=r"--checkpoint; see --help"):
        parser.parse_args([])
    assert isinstance(parser, argparse.ArgumentParser)
    assert parser.parse_args(["--checkpoint", "a", "--set", "b=1"]).set == ["b=1"]
