"""A process and its descendants: who they are, and the RAM they hold together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_NAME_LENGTH = 32


class ProcessMemory(NamedTuple):
    """One process as ``/proc/PID/status`` has it, bytes."""

    pid: int
    name: str
    """Short: program and script or module, ``python train.py``."""
    rss_bytes: int
    """Resident now, shared pages included."""
    peak_rss_bytes: int | None
    """The kernel's high-water mark."""


def tree_pids(root_pid: int, proc: Path = PROC) -> list[int]:
    """The process and all its descendants that still live."""
    task = proc / str(root_pid) / "task" / str(root_pid)
    if task.is_dir() and not (task / "children").exists():
        return _tree_by_parents(root_pid, proc)  # a kernel without CONFIG_PROC_CHILDREN
    found, todo = [], [root_pid]
    while todo:
        pid = todo.pop()
        with contextlib.suppress(OSError):
            tasks = list((proc / str(pid) / "task").iterdir())
            found.append(pid)
            for thread in tasks:
                with contextlib.suppress(OSError):  # a thread may have ended meanwhile
                    todo += map(int, (thread / "children").read_text().split())
    return found


def _tree_by_parents(root_pid: int, proc: Path) -> list[int]:
    """The same from every process's parent: slower, and right on every kernel."""
    children: dict[int, list[int]] = {}
    for directory in proc.iterdir():
        if directory.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(directory.name))
    found = [root_pid]
    for pid in found:
        found += children.get(pid, [])
    return found


def tree_pss_bytes(root_pid: int, proc: Path = PROC) -> int | None:
    """Proportional set size of a process tree: shared pages counted once in all.

    File pages are split with processes outside the tree, too: a stranger that maps torch's libraries lowers the figure
    (measured: 507 to 356 MiB for two of them). Anonymous and shared memory of the tree is not touched by that.

    None if nothing could be read, or if a member's pages may not be looked at: a part is not the tree's. Costs 7-20 ms
    a torch process (the kernel walks its page tables).
    """
    return sum_pss_bytes(tree_pids(root_pid, proc), proc)


def sum_pss_bytes(pids: Iterable[int], proc: Path = PROC) -> int | None:
    """PSS of these processes together; the ended ones are passed over. None as for ``tree_pss_bytes``."""
    try:
        sizes = [size for pid in pids if (size := pss_bytes(pid, proc)) is not None]
    except PermissionError:
        return None
    return sum(sizes) if sizes else None


def pss_bytes(pid: int, proc: Path = PROC) -> int | None:
    """PSS of one process; None if it has ended, or the kernel does not count it.

    Raises:
        PermissionError: it is another user's.
    """
    try:
        lines = (proc / str(pid) / "smaps_rollup").read_text().splitlines()
    except PermissionError:
        raise
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), None)


def read_process(pid: int, proc: Path = PROC) -> ProcessMemory | None:
    """What a process holds now; None if it has ended, or has no memory of its own (a zombie, a kernel thread)."""
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
    """``python train.py`` for ``/usr/bin/python3.11 -u /home/me/train.py --epochs 3``; None without a command line."""
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
    """The script's file name, ``-m`` and the module, or ``-c``."""
    skips = False
    for place, word in enumerate(words):
        if skips:
            skips = False
        elif word == "-m":
            return f"-m {words[place + 1]}" if place + 1 < len(words) else word
        elif word == "-c":
            return word
        elif word in ("-W", "-X"):
            skips = True
        elif not word.startswith("-"):
            return word.rpartition("/")[2]
    return ""


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024
