"""Ends processes that belong to us, and no others.

A process is signalled only through a pidfd, and only while it is an unreaped child of the caller, so that its id cannot
have passed to a stranger. Orphans of a job become children of the nearest subreaper above them. That is the fork
server, or the executor's process if the server is gone. So the walk over one's own children reaches every descendant,
whatever session it moved to.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_GET_CHILD_SUBREAPER = 37
_PIDFD_SIGNAL_PROCESS_GROUP = 1 << 2  # Linux 6.9

PROC = Path("/proc")


def set_parent_death_signal(number: int) -> None:
    """Let the kernel send this signal when the parent ends; 0 means none."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)


def set_subreaper(wanted: bool) -> bool:
    """Adopt orphaned descendants (Linux 3.4), or stop doing so. Return whether the process did so before."""
    libc, before = ctypes.CDLL(None, use_errno=True), ctypes.c_int(0)
    libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(before))
    libc.prctl(PR_SET_CHILD_SUBREAPER, int(wanted))
    return bool(before.value)


def children(proc: Path = PROC) -> list[int]:
    """Return the children of this process, including those that have ended and are not reaped."""
    pids: list[int] = []
    for task in (proc / "self" / "task").iterdir():
        with contextlib.suppress(OSError):  # a thread may have ended meanwhile
            pids += map(int, (task / "children").read_text().split())
    return pids


def kill_group(leader: int, pid: int) -> None:
    """Kill the group of an unreaped child, given its pidfd and id. Between fork and setsid, kill the child alone."""
    try:
        signal.pidfd_send_signal(leader, signal.SIGKILL, None, _PIDFD_SIGNAL_PROCESS_GROUP)
    except ProcessLookupError:  # it has no group yet
        _kill(leader)
    except OSError:  # a kernel before 6.9; the leader is unreaped, so the id is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        _kill(leader)


def sweep(is_owned: Callable[[int], bool] = lambda pid: True) -> int:
    """Kill and reap owned children and their orphans until none is left. Return how many there were."""
    count = 0
    while owned := [pid for pid in children() if is_owned(pid)]:
        for pid in owned:
            process = os.pidfd_open(pid)
            try:
                _kill(process)
                os.waitpid(pid, 0)
            except ChildProcessError:  # the program that embeds us has reaped it
                pass
            finally:
                os.close(process)
            count += 1
    return count


def session_of(pid: int, proc: Path = PROC) -> int | None:
    """Return the session id of a process, or None if it cannot be read."""
    try:
        return int((proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[3])
    except (OSError, ValueError, IndexError):
        return None


def has_mark(pid: int, mark: str, proc: Path = PROC) -> bool:
    """Return whether a process was started with ``NAME=value`` in its environment; False if it has ended."""
    with contextlib.suppress(OSError):
        return mark.encode() in (proc / str(pid) / "environ").read_bytes().split(b"\0")
    return False


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGKILL)
