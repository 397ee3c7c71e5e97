"""Shared parts of the recogniser's commands: exit codes, one line per error, and the options that many have."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from models.data.wlasl.files import list_directory, load_class_list
from slr_bench.errors import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, EXIT_OK, ConfigError, DataError, SlrBenchError
from slr_bench.units import plain, warn_in_one_line

ROOT = Path(__file__).resolve().parents[1]
"""Directory that holds the commands and this package."""


def command_text(program: str, *words: str) -> str:
    """Return a command line that works where the user is: ``program`` is a module, or a script in the repository.

    Relative paths in ``words`` stay as they are.
    """
    is_here = Path.cwd() == ROOT
    if program.endswith(".py"):
        return shlex.join(["python", program if is_here else str(ROOT / program), *words])
    path = "" if is_here else f"PYTHONPATH={shlex.quote(str(ROOT))} "
    return path + shlex.join(["python", "-m", program, *words])


def resume_command(output_dir: Path) -> str:
    """Return the whole command that continues a training; the directory holds its setting."""
    return command_text("train_efficient_model.py", "--output-dir", str(output_dir), "--resume")


class OneLineParser(argparse.ArgumentParser):
    """Reports a wrong option in one line, without the usage text."""

    def error(self, message: str) -> NoReturn:
        """Report the mistake as the error of a command."""
        raise ConfigError(f"{message}; see --help")


def run_command(work: Callable[[], int | None], interrupted: str | Callable[[], str]) -> int:
    """Run ``work`` and return the exit code of the process: the result of ``work`` (None is 0), or its error's code.

    An error that the user can mend prints one line on stderr. Ctrl-C prints one line, too; it ends with
    ``interrupted``, which says what is left of the work. If the reader of a pipe closes it, nothing is printed.
    """
    warn_in_one_line()
    try:
        try:
            code = work() or EXIT_OK
            sys.stdout.flush()
            return code
        except SlrBenchError as error:  # inside, so that Ctrl-C while it is printed prints one line, too
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    except KeyboardInterrupt:
        print(f"error: interrupted; {interrupted if isinstance(interrupted, str) else interrupted()}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise the interpreter fails at its end
        return EXIT_BROKEN_PIPE


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore Ctrl-C inside: for the end of a command, when everything is saved and only processes have to end."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def add_set_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--set A.B=C``, which :func:`slr_bench.files.parse_overrides` reads."""
    text = "change one key of the configuration; repeatable"
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C", help=text)


def add_classes_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--classes``, an argument of :func:`class_names`."""
    text = "class list, or data directory that holds one [words of the training]"
    parser.add_argument("--classes", type=Path, metavar="D", help=text)


def class_names(trained: Sequence[str] | None, named: Path | None, trained_on: Path | None) -> dict[int, str]:
    """Return the word of each class that is known.

    They are the words ``trained`` of the checkpoint. If it names none, they come from the data directory ``named``, or
    from the directory ``trained_on`` if it still exists.

    Raises:
        DataError: ``named`` has no class list, or other words than the checkpoint.
    """
    if trained and named is None:
        return dict(enumerate(trained))
    directory = named or (trained_on if trained_on and trained_on.is_dir() else None)
    if directory is None:
        return {}
    if directory.is_file():
        glosses = load_class_list(directory.parent, [directory.name])
    else:
        glosses = load_class_list(directory, list_directory(directory, "--classes" if named else "data.dir"))
    if named and not glosses:
        raise DataError(f"--classes {named} holds no class list (*class_list*.txt); use the training's data directory")
    return _checked(trained, glosses, named) if trained and named else glosses


def _checked(trained: Sequence[str], listed: Mapping[int, str], named: Path) -> dict[int, str]:
    """Return the words of the checkpoint, after a comparison with the list that the user named."""
    words = dict(enumerate(trained))
    if sorted(listed.values()) != sorted(trained):
        new = sorted(set(listed.values()) - set(trained)) or sorted(set(trained) - set(listed.values()))
        examples = plain(", ".join(new[:3]), 80) or "none"
        raise DataError(
            f"--classes {named} lists {len(listed)} words, and the checkpoint was trained on {len(trained)}; they "
            f"differ ({examples}). Leave --classes out: the checkpoint names its own words"
        )
    if dict(listed) != words:
        print(
            f"--classes {named} numbers the words differently from the checkpoint; those of the checkpoint are used",
            file=sys.stderr,
        )
    return words


def local_path(text: str) -> Path:
    """Return the path that a user named.

    Raises:
        DataError: it is the address of something on the network.
    """
    if "://" in text:
        raise DataError(f"{plain(text)} is an address, and addresses are not read; download it, and name the file")
    return Path(text)


def class_name(names: Mapping[int, str], label: int) -> str:
    """Return the word of a class, or its number if it has none."""
    return names.get(label) or f"class {label}"


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--checkpoint``, ``--config`` and ``--set``, the arguments of ``load_recogniser``."""
    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, metavar="F", help="checkpoint.pt of train_efficient_model.py")
    add("--config", type=Path, metavar="C", help="configuration of the checkpoint, if it does not contain its own")
    add_set_option(parser)
