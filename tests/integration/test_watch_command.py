"""``slr-bench watch`` in a pipe, on a terminal, and at the end of the process it watches."""

import json
import os
import pty
import signal
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-m", "slr_bench", "watch"]
BLOCK = """
import mmap, sys
block = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE)
for offset in range(0, 64 << 20, 4096):
    block[offset] = 1
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def target():
    """A process that holds 64 MiB until its input is closed."""
    process = subprocess.Popen([sys.executable, "-c", BLOCK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait()


def start(*arguments, **options):
    command = [*COMMAND, "--period", "0.1", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_json_lines_have_the_process_and_its_memory(slr_bench, target):
    done = slr_bench("watch", "--pid", target.pid, "--period", 0.1, "--count", 2, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    *readings, last = map(json.loads, done.stdout.splitlines())
    assert len(readings) == 2
    for reading in readings:
        assert [process["pid"] for process in reading["processes"]] == [target.pid]
        assert reading["processes"][0]["name"] == "python -c"
        assert 64 << 20 <= reading["pss_bytes"] <= reading["rss_bytes"] + (1 << 20)
        assert reading["ram_bytes"] == reading["rss_bytes"]
        assert 0 <= reading["pss_age_s"] < 60
    assert readings[0]["gpus"] or "NVML" in readings[0]["no_gpu"]
    assert "no_gpu" not in readings[1]  # said once
    assert last["summary"]["ending"] == "enough seen"
    assert last["summary"]["peak_ram_bytes"]["PSS"] >= 64 << 20
    mark = max(reading["processes"][0]["peak_rss_bytes"] for reading in readings)
    assert (last["summary"]["peak_bytes"], last["summary"]["peak_is_exact"]) == (mark, True)


def test_a_watch_does_not_count_itself():
    """Watched is the test's own process, whose children are the watch and whatever else it started."""
    watch = start("--pid", os.getpid(), "--count", 1, "--json")
    reading = json.loads(watch.communicate(timeout=60)[0].splitlines()[0])
    pids = [process["pid"] for process in reading["processes"]]
    assert os.getpid() in pids
    assert watch.pid not in pids


def test_a_watch_ends_with_the_process_and_prints_the_summary(target):
    watch = start("--pid", target.pid)
    first = watch.stdout.readline()
    target.stdin.close()
    rest, _ = watch.communicate(timeout=60)
    last = rest.splitlines()[-1]
    assert watch.returncode == 0
    assert "RAM" in first + rest
    assert last.startswith(f"python -c (PID {target.pid}): ended after")
    assert "peak RAM 6" in last or "peak RAM 7" in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_a_normal_end(number):
    watch = start()
    assert watch.stdout.readline()
    watch.send_signal(number)
    rest, _ = watch.communicate(timeout=60)
    assert watch.returncode == 0
    assert rest.splitlines()[-1].startswith("machine: watch stopped after")


def test_a_closed_pipe_ends_the_watch_quietly():
    watch = start(stderr=subprocess.PIPE)
    assert watch.stdout.readline()
    watch.stdout.close()
    assert watch.stderr.read() == ""
    watch.stderr.close()
    assert watch.wait(timeout=60) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pid", 4_194_305], ["--pid 4194305", "no such process"]),
        (["--warning", 0.99], ["warning 0.99", "like 0.9 and 0.95"]),
        (["--pid", 0], ["--pid"]),
        (["--count", 0], ["--count"]),
    ],
)
def test_a_user_mistake_has_exit_code_2(slr_bench, options, words):
    done = slr_bench("watch", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr


def test_a_terminal_is_redrawn_in_place(target):
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    command = [*COMMAND, "--pid", str(target.pid), "--count", "3", "--period", "0.1"]
    watch = subprocess.Popen(command, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, env=environment)
    os.close(theirs)
    output = b""
    while True:
        try:
            data = os.read(ours, 1 << 16)
        except OSError:  # the other side is closed
            break
        if not data:
            break
        output += data
    os.close(ours)
    assert watch.wait(timeout=60) == 0
    text = output.decode()
    assert "RAM " in text
    assert text.count("peak RSS") >= 3
    assert "\x1b[?25h" in text  # the cursor is back
    assert "enough seen" in text.splitlines()[-1]


def test_watch_does_not_import_torch(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "slr_bench", "watch", "--count", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "psutil" in imported
    assert not imported & {"torch", "numpy", "pandas", "matplotlib", "pydantic_settings"}
