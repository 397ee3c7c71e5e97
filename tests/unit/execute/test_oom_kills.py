"""Evidence of a kernel's kill for want of memory: the cell's own cgroup where it can be read, else the machine."""

import pytest

from slr_bench.execute.machine import OomKills, increased, read_oom_kills

V1 = "9:name=systemd:/\n4:cpu,memory:/job/7\n0::/\n"
V2 = "0::/job/7\n"
VMSTAT = "pswpin 0\noom_kill 12\n"
EVENTS = "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"


@pytest.mark.parametrize(
    ("cgroup", "files", "expected"),
    [
        (V2, {"job/7/memory.events": EVENTS}, OomKills(2, "its cgroup's")),
        (V2, {"memory.events": EVENTS}, OomKills(2, "its cgroup's")),  # a container that shows the host's path
        (V1, {"memory/job/7/memory.oom_control": CONTROL}, OomKills(5, "its cgroup's")),
        (V1, {"memory/memory.oom_control": CONTROL}, OomKills(5, "its cgroup's")),
        (V1, {"memory/job/7/memory.oom_control": "under_oom 0\n"}, OomKills(12, "the machine's")),  # before 4.13
        (V2, {}, OomKills(12, "the machine's")),
        (V2, {"job/7/memory.events": "oom_kill many\n"}, OomKills(12, "the machine's")),
        ("", {}, OomKills(12, "the machine's")),
    ],
)
def test_the_nearest_counter_is_read(tmp_path, cgroup, files, expected):
    assert read(tmp_path, {"self/cgroup": cgroup, "vmstat": VMSTAT}, files) == expected


def test_without_any_counter_the_result_is_none(tmp_path):
    assert read(tmp_path, {}, {}) is None


def read(place, proc, cgroup):
    for root, files in (("proc", proc), ("cgroup", cgroup)):
        for name, text in files.items():
            path = place / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return read_oom_kills(place / "proc", place / "cgroup")


@pytest.mark.parametrize(
    ("before", "after", "counter"),
    [
        (OomKills(2, "x"), OomKills(3, "x"), "x"),
        (OomKills(2, "x"), OomKills(2, "x"), None),
        (OomKills(3, "x"), OomKills(2, "x"), None),
        (OomKills(2, "x"), OomKills(3, "y"), None),
        (None, OomKills(3, "x"), None),
        (OomKills(2, "x"), None, None),
    ],
)
def test_only_an_increase_of_the_same_counter_is_evidence(before, after, counter):
    assert increased(before, after) == counter
