"""What the pages say can be done: links lead somewhere, commands and their options exist, make targets too."""

import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml
from markdown_page import Page

from slr_bench.cli import app
from slr_bench.errors import ConfigError
from slr_bench.files import parse_overrides
from slr_bench.grid.cells import expand
from slr_bench.grid.config import load_grid

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    Page(path) for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/*.md")))
]
GROUP = typer.main.get_command(app)
USAGE_ERROR = typer.BadParameter.__base__
PLACEHOLDERS = {"PID": "1", "N": "1"}
"""For values that must be numbers."""


def page_name(page):
    return str(page.path.relative_to(ROOT))


def calls(page):
    """The words of every command on a page, one list a command; what a shell does with it is cut off."""
    for line in page.commands:
        try:
            words = shlex.split(line)
        except ValueError:  # a code span with a quote in it is no command
            continue
        call = []
        for word in [*words, "&&"]:
            if word in ("&&", "|", ">", "&"):
                while call and (call[0] == "time" or re.fullmatch(r"[A-Z_]+=\S*", call[0])):
                    del call[0]
                if call:
                    yield [call[0].removeprefix(".venv/bin/"), *call[1:]]
                call = []
            else:
                call.append(word)


def calls_of(program):
    return [
        pytest.param(page, call[1:], id=f"{page_name(page)}: {' '.join(call)[:80]}")
        for page in PAGES
        for call in calls(page)
        if call[0] == program
    ]


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_link_leads_somewhere(page):
    lost = []
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        if not target.exists() or not target.is_relative_to(ROOT):
            lost.append(f"{link}: there is no such file")
        elif anchor and anchor not in Page(target).anchors:
            lost.append(f"{link}: the page has no such heading; it has {Page(target).anchors}")
    assert lost == []


def test_every_page_is_in_the_index():
    index = next(page for page in PAGES if page_name(page) == "docs/README.md")
    here = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert here <= {*index.links}
    assert any(link.startswith("docs/") for link in PAGES[0].links)


@pytest.mark.parametrize(("page", "words"), calls_of("slr-bench"))
def test_every_command_and_option_exists(page, words):
    words = [PLACEHOLDERS.get(word, word) for word in words if "…" not in word]
    if not words or words[0].startswith("--"):
        assert set(words) <= {"--help"}
        return
    assert words[0] in GROUP.commands, f"there is no command {words[0]}"
    try:
        GROUP.commands[words[0]].make_context(words[0], words[1:])
    except USAGE_ERROR as error:
        if type(error).__name__ != "MissingParameter":  # a sentence may name a command without its arguments
            raise


@pytest.mark.parametrize(
    ("page", "words"), [case for case in calls_of("slr-bench") if case.values[1][:1] in (["run"], ["profile"])]
)
def test_every_configuration_that_is_run_can_be_run_so(page, words, monkeypatch):
    """Files of this repository, with what is set on the command line; a file that the reader writes is not there."""
    config = next((word for word in words[1:] if word.endswith(".yml")), None)
    if config is None or not (ROOT / config).is_file():
        return
    sets = [value for option, value in pairwise(words) if option == "--set"]
    arm = next((value for option, value in pairwise(words) if option == "--arm"), None)
    monkeypatch.chdir(ROOT)
    try:
        assert expand(load_grid(Path(config)), parse_overrides(sets), arm)
    except ConfigError as error:
        if "is registered" not in str(error):  # the workload of a plug-in
            raise


@pytest.mark.parametrize(("page", "words"), calls_of("make"))
def test_every_make_target_exists(page, words):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets


@pytest.mark.parametrize(("page", "words"), calls_of("python"))
def test_every_module_and_script_that_is_run_exists(page, words):
    if words[:1] == ["-m"] and words[1].split(".")[0] not in ("pip", "memory_profiler", "pytest"):
        assert find_spec(words[1]) is not None
    elif words and words[0].endswith(".py"):
        assert (ROOT / words[0]).is_file()


def test_the_checks_see_the_pages_commands():
    """An empty list would pass them all."""
    assert [len(calls_of(program)) >= count for program, count in (("slr-bench", 25), ("make", 15), ("python", 5))] == [
        True
    ] * 3


def test_the_readmes_grid_is_a_grid(tmp_path):
    (block,) = [block for block in PAGES[0].blocks if block.language == "yaml" and "workload:" in block.text]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "grid.yml").write_text(block.text)
    written = yaml.safe_load(block.text)
    cells = expand(load_grid(tmp_path / "grid.yml"), {})
    assert len(cells) == len(written["arms"]) * 3  # 2 batch sizes x 2 precisions, less one
