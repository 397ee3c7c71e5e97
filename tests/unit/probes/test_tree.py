"""Tests of process trees: found on every kernel, summed completely or not at all, with short names."""

import os

import pytest

from slr_bench.probes import tree
from slr_bench.probes.tree import ProcessMemory, read_process, short_name, tree_pids, tree_pss_bytes


@pytest.fixture
def proc(tmp_path):
    """``proc({path: text})`` -> a ``/proc`` with these files."""

    def write(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        return tmp_path

    return write


def stat(pid, parent, name="python"):
    return {f"{pid}/stat": f"{pid} ({name}) S {parent} 1 1\n", f"{pid}/task/{pid}/comm": name}


def test_tree_is_built_from_parents_without_lists_of_children(proc):
    """A kernel built without CONFIG_PROC_CHILDREN: its trees must not look like lone processes."""
    files = stat(1, 0) | stat(5, 1) | stat(6, 5, "odd) S 9 (name") | stat(7, 1) | stat(9, 2) | {"8/comm": "no stat"}
    assert sorted(tree_pids(1, proc(files))) == [1, 5, 6, 7]
    assert sorted(tree_pids(5, proc(files))) == [5, 6]


def test_this_process_is_found_both_ways():
    own = os.getpid()
    assert own in tree_pids(own)
    assert set(tree._tree_by_parents(own, tree.PROC)) >= {own}


def test_sum_is_unknown_if_one_process_cannot_be_read(proc, monkeypatch):
    """The rest of a tree is not the tree: better no figure than a smaller one."""
    files = {"1/task/1/children": "2", "2/task/2/children": "", "1/smaps_rollup": "Pss: 100 kB\n"}
    root = proc(files | {"2/smaps_rollup": "Pss: 20 kB\n"})
    assert tree_pss_bytes(1, root) == 120 * 1024
    real = tree.Path.read_text

    def refuse(path, *arguments, **options):
        if path == root / "2/smaps_rollup":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    monkeypatch.setattr(tree.Path, "read_text", refuse)
    assert tree_pss_bytes(1, root) is None


def test_a_process_is_read_in_bytes(proc):
    files = {"3/status": "Name:\tx\nVmHWM:\t 300 kB\nVmRSS:\t 200 kB\n", "3/cmdline": "/bin/sleep\x005\0"}
    assert read_process(3, proc(files)) == ProcessMemory(3, "sleep", 200 * 1024, 300 * 1024)


@pytest.mark.parametrize("status", ["Name:\tx\nState:\tZ (zombie)\n", None])
def test_a_process_without_memory_is_none(proc, status):
    assert read_process(3, proc({"3/status": status} if status else {})) is None


def test_kernel_name_is_used_without_a_command_line(proc):
    assert read_process(3, proc({"3/status": "Name:\tkworker\nVmRSS:\t 1 kB\n", "3/cmdline": ""})).name == "kworker"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["/usr/bin/python3.11", "-u", "/home/me/train.py", "--epochs", "3"], "python train.py"),
        (["python", "-W", "error", "-m", "slr_bench.worker.main", "5"], "python -m slr_bench.worker.main"),
        (["python3", "-X", "dev", "-c", "import this"], "python -c"),
        (["python3"], "python"),
        (["python3", "-m"], "python -m"),
        (["nginx: worker process"], "nginx:"),
        (["/opt/x/" + "y" * 50], "y" * 31 + "…"),
        (["/bin/a\x1b[31m"], "a [31m"),
    ],
)
def test_names_are_short_and_printable(proc, words, name):
    root = proc({"3/cmdline": "\0".join(words) + "\0"})
    assert short_name(3, root) == name
