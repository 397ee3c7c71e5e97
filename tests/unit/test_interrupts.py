"""An interrupt is obeyed: at once, after work that must be whole, and if a callback swallowed it."""

import contextlib
import os
import signal

import pytest

from slr_bench.execute.local import LocalExecutor
from slr_bench.startup import deferred, handled_signals, obey_lost_interrupt


@pytest.fixture(autouse=True)
def handlers():
    with handled_signals():
        yield


both = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@both
def test_signal_interrupts_at_once(number):
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


@both
def test_block_is_finished_before_the_interrupt_is_raised(number):
    done = []

    def work():
        with deferred():
            with deferred():
                os.kill(os.getpid(), number)
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner", "outer"]


def test_error_in_a_block_is_not_replaced_and_the_interrupt_is_obeyed_next():
    def work():
        with deferred():
            os.kill(os.getpid(), signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    with pytest.raises(KeyboardInterrupt):
        obey_lost_interrupt()


def test_clean_up_after_an_interrupt_can_write_in_a_block():
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with deferred():
        pass


def test_swallowed_interrupt_is_obeyed_later():
    obey_lost_interrupt()
    with contextlib.suppress(KeyboardInterrupt):  # as a library does around a callback
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        obey_lost_interrupt()
    with handled_signals():
        obey_lost_interrupt()


def test_handlers_and_notes_of_a_command_end_with_it():
    before = signal.getsignal(signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt), handled_signals():
        assert signal.getsignal(signal.SIGINT) != before
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before
    obey_lost_interrupt()


def test_executor_does_not_wait_for_a_job_after_a_swallowed_interrupt():
    executor = LocalExecutor([], {})
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        executor.wait_ready()
