"""Tests of RAM meters on hand-made /proc and cgroup trees, and on this machine with allocations of known size."""

import json
import mmap
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from slr_bench.errors import ProbeUnavailableError
from slr_bench.probes import host
from slr_bench.probes.host import HostMemory, HostProbe, read_host_memory
from slr_bench.units import MIB

PAGE = mmap.PAGESIZE
COUNTER_SLACK = 256 * PAGE  # the kernel counts pages per CPU and sums them up in batches
MACHINE = HostMemory(6_000, 10_000, "machine")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """``tree({path: text})`` writes files; the machine itself has 10,000 bytes, 4,000 of them available."""
    monkeypatch.setattr(host.psutil, "virtual_memory", lambda: SimpleNamespace(total=10_000, available=4_000))

    def write(files: dict[str, str]) -> tuple[Path, Path]:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "proc", tmp_path / "cgroup"

    return write


def v2(path: str, limit: str, used: int, cache: int = 0) -> dict[str, str]:
    stat = f"anon 1\ninactive_file {cache}\nactive_file 5\n"
    return {f"{path}/memory.max": f"{limit}\n", f"{path}/memory.current": f"{used}\n", f"{path}/memory.stat": stat}


def v1(path: str, limit: int, used: int, own_cache: int, tree_cache: int) -> dict[str, str]:
    return {
        f"{path}/memory.limit_in_bytes": f"{limit}\n",
        f"{path}/memory.usage_in_bytes": f"{used}\n",
        f"{path}/memory.stat": f"cache 1\ninactive_file {own_cache}\ntotal_inactive_file {tree_cache}\n",
    }


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("processor\t: 0\nflags\t\t: fpu amx_bf16\n\nprocessor\t: 1\n", {"fpu", "amx_bf16"}),
        ("Features\t: asimd bf16\n", {"asimd", "bf16"}),
        ("hart\t: 0\n", set()),
        (None, set()),
    ],
)
def test_flags_of_the_processor(tmp_path, text, flags):
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert host.cpu_flags(tmp_path) == flags


def test_without_any_cgroup_the_machine_is_the_limit(tree):
    assert read_host_memory(*tree({})) == MACHINE


def test_a_v2_cgroup_limits_and_droppable_cache_is_not_used(tree):
    files = {"proc/self/cgroup": "0::/job\n"} | v2("cgroup/job", "5000", 3000, cache=1000)
    assert read_host_memory(*tree(files)) == HostMemory(2000, 5000, "cgroup v2")


def test_the_tightest_of_nested_v2_cgroups_counts(tree):
    files = {"proc/self/cgroup": "0::/slice/job/inner\n"}
    files |= v2("cgroup/slice", "7000", 6500) | v2("cgroup/slice/job", "4000", 3000)
    files |= v2("cgroup/slice/job/inner", "max", 100)
    assert read_host_memory(*tree(files)) == HostMemory(3000, 4000, "cgroup v2")


def test_a_container_sees_its_own_cgroup_as_the_root(tree):
    """The path in /proc is the host's and does not exist below the container's mount."""
    files = {"proc/self/cgroup": "0::/docker/abc\n"} | v2("cgroup", "5000", 3000)
    assert read_host_memory(*tree(files)) == HostMemory(3000, 5000, "cgroup v2")


def test_a_v1_cgroup_limits_beside_other_controllers(tree):
    files = {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/job\n1:name=systemd:/y\n"}
    files |= v1("cgroup/memory/job", 5000, 3000, own_cache=1000, tree_cache=1000)
    assert read_host_memory(*tree(files)) == HostMemory(2000, 5000, "cgroup v1")


def test_v1_use_and_cache_are_both_those_of_the_whole_subtree(tree):
    """``usage_in_bytes`` counts the children too, so their cache must go from it as well."""
    files = {"proc/self/cgroup": "4:memory:/job\n"} | v1("cgroup/memory/job", 5000, 3000, own_cache=0, tree_cache=1000)
    assert read_host_memory(*tree(files)) == HostMemory(2000, 5000, "cgroup v1")


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/\n"},
        {"proc/self/cgroup": "0::/job\n"} | v2("cgroup/job", "max", 3000),
        {"proc/self/cgroup": "0::/job\n"} | v2("cgroup/job", "50000", 3000),
        {"proc/self/cgroup": "0::/job\n", "cgroup/job/memory.max": "5000\n"},
        {"proc/self/cgroup": "4:memory:/job\n"} | v1("cgroup/memory/job", 0x7FFFFFFFFFFFF000, 3000, 0, 0),
        {"proc/self/cgroup": "5:cpu:/job\n"} | v1("cgroup/memory/job", 5000, 3000, 0, 0),
    ],
    ids=["no files", "max", "above the machine", "use unknown", "v1 unlimited", "v1 no memory controller"],
)
def test_machine_is_the_limit_without_a_valid_cgroup_limit(tree, files):
    assert read_host_memory(*tree(files)) == MACHINE


def test_used_memory_of_this_machine_is_within_the_limit():
    memory = read_host_memory()
    assert 0 < memory.used_bytes <= memory.limit_bytes


@pytest.mark.parametrize(
    ("files", "count"),
    [({"proc/vmstat": "nr_free 5\noom_kill 7\n"}, 7), ({"proc/vmstat": "nr_free 5\n"}, None), ({}, None)],
)
def test_oom_kills_are_counted_or_unknown(tree, files, count):
    assert host.oom_kills(tree(files)[0]) == count


def test_fields_are_read_in_their_units(tree):
    proc, _ = tree({"proc/self/statm": "900 50 30 1 0 20 0\n", "proc/self/status": "VmPeak:\t 9 kB\nVmHWM:\t 300 kB\n"})
    assert host.rss_bytes(proc) == 50 * PAGE
    assert host.high_water_bytes(proc) == 300 * 1024


def test_high_water_mark_is_unavailable_if_the_kernel_lacks_it(tree):
    proc, _ = tree({"proc/self/status": "VmRSS: 300 kB\n"})
    with pytest.raises(ProbeUnavailableError, match="no VmHWM"):
        host.high_water_bytes(proc)
    with pytest.raises(ProbeUnavailableError, match="cannot be read"):
        host.high_water_bytes(proc / "absent")
    with pytest.raises(ProbeUnavailableError, match="cannot be written"):
        host.reset_high_water(proc / "absent")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"proc/self/statm": "9 5 3\n", "proc/self/clear_refs": ""}, "status cannot be read"),
        ({"proc/self/status": "VmHWM: 300 kB\n", "proc/self/clear_refs": ""}, "statm"),
        (
            {"proc/self/status": "VmHWM: 300 kB\n", "proc/self/statm": "9 5 3\n", "proc/self/clear_refs/x": ""},
            "clear_refs",
        ),
    ],
    ids=["no mark", "no start", "no reset"],
)
def test_probe_that_cannot_read_returns_nulls_with_the_reason(tree, files, reason):
    """Without the reset the mark would be another work's peak: then there is no reading at all."""
    with HostProbe(tree(files)[0]) as probe:
        pass
    readings = probe.readings()
    assert {name: metric.value for name, metric in readings.items()} == dict.fromkeys(readings)
    assert all(reason in metric.reason for metric in readings.values())


def test_a_probe_reads_peak_and_rise(tree):
    proc, _ = tree({"proc/self/statm": "9 5 3\n", "proc/self/status": "VmHWM: 300 kB\n", "proc/self/clear_refs": ""})
    with HostProbe(proc) as probe:
        assert (proc / "self/clear_refs").read_text() == "5"
    values = {name: metric.value for name, metric in probe.readings().items()}
    assert values == {"peak_rss_bytes": 300 * 1024, "rss_over_start_bytes": 300 * 1024 - 5 * PAGE}


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "freed before the end"])
def test_high_water_mark_counts_a_known_allocation_to_the_page(kept):
    with HostProbe() as probe:
        block = mmap.mmap(-1, 64 * MIB)  # of the kernel itself: malloc could hand out pages that are resident already
        for offset in range(0, 64 * MIB, PAGE):
            block[offset] = 1
        if not kept:
            block.close()
    rise = probe.readings()["rss_over_start_bytes"].value
    assert abs(rise - 64 * MIB) <= COUNTER_SLACK
    assert probe.readings()["peak_rss_bytes"].value >= 64 * MIB


def test_an_untouched_allocation_is_not_resident():
    with HostProbe() as probe, mmap.mmap(-1, 64 * MIB):
        pass
    assert probe.readings()["rss_over_start_bytes"].value <= COUNTER_SLACK


FORK = """
import json, os
from slr_bench.probes import host

MIB = 1024**2
shared = bytearray(b"\\1") * (64 * MIB)
pids_before, before = set(host.tree_pids(os.getpid())), host.tree_pss_bytes(os.getpid())
ready_read, ready_write = os.pipe()
release_read, release_write = os.pipe()
pid = os.fork()
if pid == 0:
    own = bytearray(b"\\2") * (16 * MIB)
    os.write(ready_write, b"x")
    os.close(release_write)
    os.read(release_read, 1)
    os._exit(len(own) + len(shared) == 0)
os.read(ready_read, 1)
found = {
    "is_added": set(host.tree_pids(os.getpid())) - pids_before == {pid},
    "before": before,
    "rise": host.tree_pss_bytes(os.getpid()) - before,
    "alone": host.tree_pss_bytes(pid),
}
os.close(release_write)
os.waitpid(pid, 0)
print(json.dumps(found))
"""
"""A process that shares 64 MiB with its child, which adds 16 MiB of its own."""


def test_pss_of_a_tree_counts_shared_pages_once():
    """Run in a fresh interpreter: a fork copies more of a larger process, and that of all tests holds a gigabyte."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["is_added"]
    assert 16 * MIB <= found["rise"] <= 24 * MIB  # its own 16 MiB and what the fork copied, not the 64 it shares
    # It has its half of the shared ones, too.
    assert 16 * MIB + 32 * MIB <= found["alone"] < 16 * MIB + 64 * MIB + found["before"]


def test_pss_of_a_tree_skips_ended_processes(tree):
    files = {
        "proc/1/task/1/children": "2 3",
        "proc/1/task/9/children": "4",
        "proc/2/task/2/children": "",
        "proc/4/task/4/children": "",
        "proc/1/smaps_rollup": "00-ff ---p [rollup]\nRss: 900 kB\nPss: 100 kB\n",
        "proc/2/smaps_rollup": "Pss: 20 kB\n",
    }
    proc, _ = tree(files)
    assert sorted(host.tree_pids(1, proc)) == [1, 2, 4]
    assert host.tree_pss_bytes(1, proc) == 120 * 1024
    assert host.tree_pss_bytes(4, proc) is None
    assert host.tree_pss_bytes(77, proc) is None


def test_ended_thread_hides_neither_its_process_nor_the_children(tree):
    """Between listing the threads and reading one, it may have gone."""
    proc, _ = tree({"proc/1/task/1/children": "2", "proc/2/task/2/children": "", "proc/1/task/5/comm": "gone\n"})
    assert sorted(host.tree_pids(1, proc)) == [1, 2]
