"""Start of a command: whether this Python has its packages, and Ctrl-C and SIGTERM that cannot be lost.

It is imported before anything else, and imports no package itself. A command that is started with another Python than
the project's prints one line with the cure.

Python raises KeyboardInterrupt wherever the program happens to be. Inside a callback of another library, such as a
serializer that pydantic calls, the exception can be swallowed: the command then ran on. So the signal also leaves a
note here. Work that must be whole is done in :func:`deferred`, and loops call :func:`obey_lost_interrupt`.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, TracebackType

from slr_bench.errors import EXIT_USAGE

LEAST_PYTHON = (3, 11)
BENCH = ("torch", "jinja2", "matplotlib", "pynvml", "psutil", "pydantic", "yaml", "rich", "typer")
"""Packages that slr-bench needs, by the name of their import."""
RECOGNISER = ("torchvision", "av", "PIL", "numpy")
"""Further packages that the recogniser needs."""
PROJECT = Path(__file__).resolve().parents[1]
_SCRIPTS = {"slr_bench": "slr-bench", "models": "train_efficient_model.py"}
"""Package to the script that runs it."""


def is_command_of(package: str, arguments: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether the process was started to run a module of ``package`` (``python -m``), or its script.

    ``arguments`` are ``sys.argv``, in which Python keeps ``-m`` until it has found the module. ``words`` are those of
    the process. A notebook or a test that imports the package is no command: an import error says what is missing.
    """
    if not arguments or arguments[0] != "-m":
        return bool(arguments) and os.path.basename(arguments[0]) == _SCRIPTS.get(package)
    after = list(words)[list(words).index("-m") + 1 :] if "-m" in words else []
    return bool(after) and after[0].partition(".")[0] == package


def require_packages(package: str, names: Sequence[str], has: Callable[[str], object] = find_spec) -> None:
    """Exit with code 2 and one line if a command of ``package`` runs in a Python that is too old or lacks packages."""
    if not is_command_of(package, sys.argv, sys.orig_argv):
        return
    if sys.version_info < LEAST_PYTHON:
        found = f"is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.11 or newer is needed"
    else:
        missing = [name for name in names if not has(name)]
        if not missing:
            return
        found = f"has no {', '.join(missing)}"
    sys.stderr.write(f"error: {sys.executable} {found}; {cure(sys.orig_argv[1:], sys.prefix, PROJECT)}\n")
    raise SystemExit(EXIT_USAGE)


def answer_early_interrupts(package: str) -> None:
    """Print one line instead of a traceback if Ctrl-C ends a command of ``package`` while it is still importing."""
    if is_command_of(package, sys.argv, sys.orig_argv):
        sys.excepthook = _without_traceback


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.stderr.write("error: interrupted; nothing was written\n")
    else:
        sys.__excepthook__(kind, error, trace)


def cure(words: Sequence[str], prefix: str, project: Path) -> str:
    """Return what to do: start ``words`` with the project's own Python, made by ``make setup``, or install packages.

    ``prefix`` is the environment of this Python.
    """
    environment = project / ".venv"
    if not (project / "Makefile").exists() or Path(prefix).resolve() == environment.resolve():
        where = "." if (project / "Makefile").exists() else "slr-bench"
        return f"install them: {sys.executable} -m pip install '{where}[recogniser]'"
    own = os.path.relpath(environment / "bin" / "python")
    start = shlex.join([own, *words])
    return f"start it with {start}" if (environment / ".ready").exists() else f"run `make setup`, then {start}"


class _Signals:
    """The signals that arrived since :func:`handled_signals`. Python runs signal handlers in the main thread alone."""

    def __init__(self) -> None:
        self.count = 0
        self.depth = 0
        """Number of :func:`deferred` blocks that are open."""

    def receive(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self.depth:
            raise KeyboardInterrupt


_signals = _Signals()


@contextmanager
def handled_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt while a command runs; then restore their handlers and forget them.

    Otherwise a program that calls a command would find a note of its own signals, and end at its next job.
    """
    global _signals
    earlier, _signals = _signals, _Signals()
    before = {number: signal.signal(number, _signals.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        _signals = earlier
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Finish the block first: a signal that arrives within it raises KeyboardInterrupt at its end."""
    signals, before = _signals, _signals.count
    signals.depth += 1
    try:
        yield
    finally:
        signals.depth -= 1
    if signals.count > before and not signals.depth:
        raise KeyboardInterrupt


def obey_lost_interrupt() -> None:
    """Raise KeyboardInterrupt if a signal has arrived. Whoever still runs has not obeyed it.

    Only code that an interrupt would have ended may call this, never code that cleans up after one.
    """
    if _signals.count:
        raise KeyboardInterrupt
