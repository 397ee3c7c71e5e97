"""Ends this process by SIGKILL at a chosen call: ``KILL_POINT=<role>:<name>:<nth>:<before|half|after>``."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

VARIABLE = "KILL_POINT"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def guarded(
    role: str, name: str, call: Callable[..., Any], half: Callable[..., Any] | None = None
) -> Callable[..., Any]:
    """``call``, deadly at its nth time if this is the chosen point; ``half`` does half of it."""
    chosen_role, chosen, nth, when = os.environ.get(VARIABLE, ":::").split(":")
    if (role, name) != (chosen_role, chosen):
        return call
    left = [int(nth)]

    def deadly(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] != 0:
            return call(*arguments, **named)
        if when == "half" and half is not None:
            half(*arguments, **named)
        elif when == "after":
            call(*arguments, **named)
        return die()

    return deadly
