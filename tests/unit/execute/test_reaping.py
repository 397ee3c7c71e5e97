"""Only what is ours is ended: unreaped children, through their descriptors; and all of it, wherever it went."""

import os
import select
import signal
import subprocess
import sys

import pytest

from slr_bench.execute import fork_server

PATIENCE_S = 60

_TREE = """
import os, subprocess, sys
# A child that starts a daemon: forks, leaves the session, forks again; its parents end, it goes on.
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        subprocess.Popen(["sleep", "600"])
        os.write(1, f"{os.getpid()}\\n".encode())
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
os.wait()
os.execvp("sleep", ["sleep", "600"])
"""


@pytest.fixture
def subreaper():
    before = fork_server.set_subreaper(True)
    yield
    fork_server.set_subreaper(before)


def test_subreaper_state_can_be_restored():
    before = fork_server.set_subreaper(True)
    assert fork_server.set_subreaper(before) is True
    assert fork_server.set_subreaper(before) is before


def test_a_daemon_that_left_its_session_is_ended_with_the_rest_and_strangers_are_not(subreaper):
    mark = "OWNER_OF_A_TEST=1"
    with (
        subprocess.Popen(["sleep", "600"]) as stranger,
        subprocess.Popen(
            [sys.executable, "-c", _TREE], env=os.environ | dict([mark.split("=")]), stdout=subprocess.PIPE, text=True
        ) as root,
    ):
        daemon = os.pidfd_open(int(root.stdout.readline()))
        assert fork_server.sweep(lambda pid: fork_server.has_mark(pid, mark)) == 3
        assert select.select([daemon], [], [], PATIENCE_S)[0]
        os.close(daemon)
        assert root.poll() is not None
        assert stranger.poll() is None
        assert stranger.pid in fork_server.children()
        stranger.kill()


def test_a_whole_group_is_killed_and_nothing_else():
    apart = {"start_new_session": True, "stdout": subprocess.PIPE}
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        with subprocess.Popen(["sh", "-c", "sleep 600 & echo x; wait"], **apart) as leader:
            leader.stdout.readline()
            process = os.pidfd_open(leader.pid)
            fork_server.kill_group(process, leader.pid)
            os.close(process)
            assert leader.stdout.read() == b""  # its child held the pipe too
        assert leader.returncode == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_a_child_without_a_group_of_its_own_is_killed_alone():
    with subprocess.Popen(["sleep", "600"]) as child:
        process = os.pidfd_open(child.pid)
        fork_server.kill_group(process, child.pid)
        os.close(process)
    assert child.returncode == -signal.SIGKILL


def test_on_an_old_kernel_the_group_is_killed_by_the_id_of_its_unreaped_leader(monkeypatch):
    send = signal.pidfd_send_signal

    def refuse_flags(process, number, info=None, flags=0):
        if flags:
            raise OSError(22, "Invalid argument")
        send(process, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse_flags)
    with subprocess.Popen(["sh", "-c", "sleep 600 & echo; wait"], start_new_session=True, stdout=-1) as leader:
        leader.stdout.readline()
        process = os.pidfd_open(leader.pid)
        fork_server.kill_group(process, leader.pid)
        os.close(process)
        assert leader.stdout.read() == b""


def test_without_owned_children_nothing_is_swept():
    assert fork_server.sweep(lambda pid: False) == 0


def test_an_ended_process_has_no_session_and_no_mark():
    with subprocess.Popen(["true"]) as child:
        pass
    assert fork_server.session_of(child.pid) is None
    assert not fork_server.has_mark(child.pid, "X=1")
    assert fork_server.session_of(os.getpid()) == os.getsid(0)
