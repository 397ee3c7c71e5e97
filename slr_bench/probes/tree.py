"""A process and its descendants, and the RAM that they hold together.

``psutil.Process.children`` would read the status of every process of the machine for each sample; the kernel's own
lists of children are read here instead, and files of ``/proc`` only for the tree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_NAME_LENGTH = 32


class ProcessMemory(NamedTuple):
    """One process, from ``/proc/PID/status``, in bytes."""

    pid: int
    name: str
    """Program with its script or module, such as ``python train.py``."""
    rss_bytes: int
    """Resident bytes, shared pages included."""
    peak_rss_bytes: int | None
    """The kernel's high-water mark."""


def tree_pids(root_pid: int, proc: Path = PROC) -> list[int]:
    """Return the process and all its living descendants."""
    task = proc / str(root_pid) / "task" / str(root_pid)
    if task.is_dir() and not (task / "children").exists():
        return _tree_by_parents(root_pid, proc)  # a kernel without CONFIG_PROC_CHILDREN
    pids, todo = [], [root_pid]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            tasks = list((proc / str(pid) / "task").iterdir())
            pids.append(pid)
            for thread in tasks:
                with contextlib.suppress(OSError):  # a thread may have ended in between
                    todo += map(int, (thread / "children").read_text().split())
    return pids


def _tree_by_parents(root_pid: int, proc: Path) -> list[int]:
    """Return the same from every process's parent, which is slower and works on every kernel."""
    children: dict[int, list[int]] = {}
    for directory in proc.iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(directory.name))
    pids = [root_pid]
    for pid in pids:
        pids += children.get(pid, [])
    return pids


def tree_pss_bytes(root_pid: int, proc: Path = PROC) -> int | None:
    """Return the proportional set size of a process tree, in which shared pages count once.

    File pages are split with processes outside the tree, too: another process that maps torch's libraries lowers the
    figure (measured: 507 to 356 MiB for two of them). Anonymous and shared memory of the tree is not affected.

    Returns None if nothing could be read, or if one member's pages cannot be read: a part is not the tree's. Costs
    7-20 ms per torch process (the kernel walks its page tables).
    """
    return sum_pss_bytes(tree_pids(root_pid, proc), proc)


def sum_pss_bytes(pids: Iterable[int], proc: Path = PROC) -> int | None:
    """Return the PSS of these processes without those that have ended; None as for ``tree_pss_bytes``."""
    try:
        sizes = [size for pid in pids if (size := pss_bytes(pid, proc)) is not None]
    except PermissionError:
        return None
    return sum(sizes) if sizes else None


def pss_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the PSS of one process, or None if it has ended or the kernel does not count it.

    Raises:
        PermissionError: The process is another user's.
    """
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except PermissionError:
        raise
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def read_process(pid: int, proc: Path = PROC) -> ProcessMemory | None:
    """Read the memory of a process; None if it has ended or has none of its own (a zombie, a kernel thread)."""
    try:
        lines = (proc / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmRSS" not in fields:
        return None
    peak = fields.get("VmHWM")
    name = short_name(pid, proc) or fields.get("Name", "").strip() or "?"
    return ProcessMemory(pid, name, _kib(fields["VmRSS"]), _kib(peak) if peak else None)


def short_name(pid: int, proc: Path = PROC) -> str | None:
    """Return ``python train.py`` for ``/usr/bin/python3.11 -u /home/me/train.py``; None without a command line."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    words = [word for word in words if word]
    if not words:
        return None
    program = words[0].split()[0].rpartition("/")[2] or words[0]
    name = "python" if program.startswith("python") else program
    if name == "python":
        name = f"{name} {_python_target(words[1:])}".strip()
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _python_target(words: list[str]) -> str:
    """Return the script's file name, ``-m`` and the module, or ``-c``."""
    skips = False
    for index, word in enumerate(words):
        if skips:
            skips = False
        elif word == "-m":
            return f"-m {words[index + 1]}" if index + 1 < len(words) else word
        elif word == "-c":
            return word
        elif word in ("-W", "-X"):
            skips = True
        elif not word.startswith("-"):
            return word.rpartition("/")[2]
    return ""


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024
