"""Tests of finding a process's cgroups, on hand-made ``mountinfo`` and cgroup trees."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slr_bench.probes.cgroups import CgroupLimit, memory_limits


@pytest.fixture
def tree(tmp_path):
    """``tree(cgroup_line, mount=(point, root, kind), limits={directory: (limit, used)})`` -> the limits found."""

    def find(line, mount, limits, pid="self"):
        point, root, kind = mount
        names = ("memory.max", "memory.current") if kind == "cgroup2" else ("limit_in_bytes", "usage_in_bytes")
        names = names if kind == "cgroup2" else tuple(f"memory.{name}" for name in names)
        options = "rw" if kind == "cgroup2" else "rw,memory"
        write(tmp_path / "proc" / str(pid) / "cgroup", f"{line}\n")
        mounted = str(tmp_path / point).replace(" ", "\\040")
        text = f"30 25 0:26 {root} {mounted} rw,nosuid shared:9 - {kind} {kind} {options}\n"
        write(tmp_path / "proc/self/mountinfo", f"22 1 0:21 / /proc rw - proc proc rw\n{text}")
        for directory, (limit, used) in limits.items():
            write(tmp_path / point / directory / names[0], f"{limit}\n")
            write(tmp_path / point / directory / names[1], f"{used}\n")
        return memory_limits(tmp_path / "proc", tmp_path / "elsewhere", pid)

    return find


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_all_limits_up_to_the_mount_are_listed_innermost_first(tree):
    limits = {"a/b": (500, 20), "a": ("max", 30), ".": (900, 40)}
    found = tree("0::/a/b", ("cg", "/", "cgroup2"), limits)
    assert found == [CgroupLimit(20, 500, "cgroup v2"), CgroupLimit(40, 900, "cgroup v2")]


@pytest.mark.parametrize(("kind", "line"), [("cgroup2", "0::/docker/abc/job"), ("cgroup", "4:memory:/docker/abc/job")])
def test_nested_cgroup_counts_in_a_container_whose_root_is_its_own_cgroup(tree, kind, line):
    found = tree(line, ("my cg", "/docker/abc", kind), {"job": (300, 20), ".": (900, 40)})
    assert [limit.limit_bytes for limit in found] == [300, 900]


@pytest.mark.parametrize("path", ["/not/there", "/../outside", "/"])
def test_mounted_cgroup_is_used_for_a_path_outside_the_mount(tree, path):
    found = tree(f"0::{path}", ("cg", "/docker/abc", "cgroup2"), {".": (900, 40)})
    assert [limit.limit_bytes for limit in found] == [900]


def test_v2_mounted_beside_v1_is_found(tree):
    """The hybrid layout: version 2 lies below a directory of version 1 hierarchies."""
    found = tree("0::/job", ("sys/fs/cgroup/unified", "/", "cgroup2"), {"job": (300, 20)})
    assert found == [CgroupLimit(20, 300, "cgroup v2")]


def test_cgroup_of_another_process_is_found_under_the_own_mount(tree):
    found = tree("0::/docker/abc", ("cg", "/", "cgroup2"), {"docker/abc": (300, 20), ".": (900, 40)}, pid=77)
    assert [limit.limit_bytes for limit in found] == [300, 900]


@pytest.mark.parametrize("limit", ["max", "0", "-1", "", str(2**63 - 4096)])
def test_cgroup_without_a_limit_is_left_out(tree, limit):
    assert tree("4:memory:/", ("cg", "/", "cgroup"), {".": (limit, 40)}) == []


def test_without_proc_there_is_no_limit(tmp_path):
    assert memory_limits(tmp_path / "proc", tmp_path) == []


@settings(max_examples=30, deadline=None)
@given(limits=st.lists(st.one_of(st.none(), st.integers(1, 2**50)), min_size=1, max_size=6))
def test_nesting_neither_loses_nor_adds_a_limit(limits, tmp_path_factory):
    root = tmp_path_factory.mktemp("nested")
    path = "/".join(f"level{number}" for number in range(len(limits)))
    write(root / "proc/self/cgroup", f"0::/{path}\n")
    for depth, limit in enumerate(limits):
        place = root / "cg" / "/".join(f"level{number}" for number in range(depth + 1))
        write(place / "memory.max", f"{limit or 'max'}\n")
        write(place / "memory.current", "1\n")
    found = [limit.limit_bytes for limit in memory_limits(root / "proc", root / "cg")]
    assert found == [limit for limit in reversed(limits) if limit is not None]
