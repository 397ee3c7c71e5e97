"""Out of RAM by the kernel's own hand: a grid inside a memory cgroup, where one can be made."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 120
LIMIT_BYTES = 1 << 30
CGROUP = Path("/sys/fs/cgroup")


def own_memory_cgroup() -> tuple[Path, str]:
    """The directory below which a cgroup can be made, and the name of its limit."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return CGROUP / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
        if controllers == "" and (CGROUP / "cgroup.controllers").exists():
            return CGROUP / path.lstrip("/"), "memory.max"
    pytest.skip("no memory cgroup is mounted here")


@pytest.fixture
def small_cgroup():
    """A memory cgroup of ``LIMIT_BYTES``, made for this test and removed after it."""
    parent, limit = own_memory_cgroup()
    place = parent / f"slr_bench_test_{os.getpid()}"
    try:
        place.mkdir()
    except OSError as error:
        pytest.skip(f"a memory cgroup cannot be made here: {error.strerror}")
    try:
        try:
            (place / limit).write_text(str(LIMIT_BYTES))
            for swap in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
                with contextlib.suppress(OSError):
                    (place / swap).write_text("0" if swap.endswith("max") else str(LIMIT_BYTES))
        except OSError as error:
            pytest.skip(f"the memory of a cgroup cannot be limited here: {error.strerror}")
        yield place
    finally:
        place.rmdir()


def test_a_cell_killed_by_its_cgroup_is_out_of_ram_and_the_larger_one_is_not_run(small_cgroup, write_grid, tmp_path):
    """Evidence is the cgroup's own count. The kernel takes the cell, not the server or the runner: they go on."""
    sizes = [1024, 1 << 29, 1 << 30]  # float32: the second is twice the limit
    grid = write_grid({"workload": "hungry", "axes": {"fault.size": sizes}, "repeats": 1, "device": "cpu"})
    command = [sys.executable, "-m", "slr_bench", "run", str(grid), "--out", str(tmp_path / "run")]
    entry = (
        f"import os; open({str(small_cgroup / 'cgroup.procs')!r}, 'w').write('0'); os.execv({command[0]!r}, {command})"
    )
    done = subprocess.run([sys.executable, "-c", entry], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in (tmp_path / "run" / "records").iterdir()]
    ends = {record["setting"]["fault"]["size"]: (record["outcome"], record["reason"]) for record in records}
    assert ends[sizes[0]] == ("ok", None)
    assert ends[sizes[1]][0] == "oom_host"
    assert "its cgroup's oom_kill count rose" in ends[sizes[1]][1]
    assert ends[sizes[2]][0] == "skipped_dominated"
