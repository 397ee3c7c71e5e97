"""The pages are true: links lead somewhere; commands, options, make targets, files and modules exist."""

import re
import shlex
import subprocess
import sys
from importlib import import_module
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
    Page(path)
    for path in (
        *sorted(ROOT.glob("*.md")),
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/*.md")),
        ROOT / "reports/README.md",
        ROOT / "reports/baseline/README.md",
    )
]
README = next(page for page in PAGES if page.path == ROOT / "README.md")
DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")
FILE = re.compile(r"(?:slr_bench|models|benchmarks|tests|configs|docs|reports|examples)/[\w./-]*\w")
"""A path of this repository inside a code span."""
DOTTED = re.compile(r"(?:slr_bench|models|benchmarks)(?:\.\w+)+")
"""A module of this repository, or an attribute of one."""
WRITTEN = re.compile(r"reports/(?:latest|tiny|before|after)\b|docs/decisions\.md")
"""Paths that a command of a page writes, and the page of decisions as it once was."""
GROUP = typer.main.get_command(app)
USAGE_ERROR = typer.BadParameter.__base__
PLACEHOLDERS = {"PID": "1", "N": "1"}
"""For values that must be numbers."""


def page_name(page):
    return str(page.path.relative_to(ROOT))


def calls(page):
    """Yield the words of every command on a page, one list per command, without pipes and redirections."""
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


@pytest.mark.parametrize("folder", ["docs", "docs/decisions"])
def test_every_page_is_in_the_index_of_its_folder(folder):
    index = next(page for page in PAGES if page_name(page) == f"{folder}/README.md")
    here = {path.name for path in (ROOT / folder).glob("*.md")} - {"README.md"}
    assert here <= {*index.links}


def test_readme_links_to_every_page_and_has_at_most_1200_words():
    linked = {link for link in README.links if link.startswith("docs/")}
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - {"docs/README.md"} <= linked
    assert len(README.path.read_text().split()) <= 1200


def test_readme_names_the_setup_bench_and_test_commands():
    commands = [line for block in README.blocks for line in Page.lines(block)]
    assert {"make setup", "make bench", "make test"} <= {*commands}
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_index_of_decisions_has_one_line_per_decision():
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    listed = re.findall(r"^- (\d{4}-\d\d-\d\d): (.+)$", index, re.MULTILINE)
    titles = r"^\*\*(\d{4}-\d\d-\d\d), (.+?)\.\*\*"
    written = [title for path in DECISIONS for title in re.findall(titles, path.read_text(), re.MULTILINE)]
    assert len(written) > 140
    assert sorted(listed) == sorted(written)


def test_site_has_every_page_in_its_navigation():
    site = (ROOT / "mkdocs.yml").read_text()
    here = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert here == {*re.findall(r"[\w/]+\.md", site.partition("\nnav:")[2])}


def test_site_builds_with_every_link_checked(tmp_path):
    pytest.importorskip("material", reason="make docs installs mkdocs-material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "search" / "search_index.js").is_file()


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_file_that_a_page_names_exists(page):
    named = {path for text in (*page.commands, *page.code_spans) for path in FILE.findall(text)}
    folders = {path for path in named if not WRITTEN.match(path)}
    assert [path for path in sorted(folders) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize(("page", "words"), calls_of("slr-bench"))
def test_every_command_and_option_exists(page, words):
    words = [PLACEHOLDERS.get(word, word) for word in words if "…" not in word]
    if not words or words[0].startswith("--"):
        assert set(words) <= {option for parameter in GROUP.params for option in parameter.opts} | {"--help"}
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
    """Covers the files of this repository, with overrides of the command line, and no file that the reader writes."""
    config = next((word for word in words[1:] if word.endswith(".yml")), None)
    if config is None or not (ROOT / config).is_file():
        return
    sets = [value for option, value in pairwise(words) if option == "--set"]
    arm = next((value for option, value in pairwise(words) if option == "--arm"), None)
    monkeypatch.chdir(ROOT)
    try:
        assert expand(load_grid(Path(config)), parse_overrides(sets), arm)
    except ConfigError as error:
        if "is registered" not in str(error):  # a workload of a plug-in
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


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_dotted_name_of_this_repository_exists(page):
    spans = [text for text in page.code_spans if re.fullmatch(r"[\w.]+(\(.*\))?", text)]
    names = {found[0] for text in spans if (found := DOTTED.match(text))}
    group_of_entry_points = "slr_bench.workloads"
    assert [name for name in sorted(names - {group_of_entry_points}) if not name_exists(name)] == []


def name_exists(name):
    """Whether the dotted name is a module, or an attribute of one."""
    module, _, attribute = name.rpartition(".")
    try:
        return find_spec(name) is not None or hasattr(import_module(module), attribute)
    except ModuleNotFoundError:  # the part before the last dot is no package
        return hasattr(import_module(module), attribute)


def test_the_check_of_names_finds_a_wrong_one():
    assert name_exists("slr_bench.record")
    assert name_exists("slr_bench.record.Metric")
    assert not name_exists("slr_bench.record.Metrik")


def test_the_checks_see_the_pages_commands():
    """An empty list would pass them all."""
    assert [len(calls_of(program)) >= count for program, count in (("slr-bench", 25), ("make", 15), ("python", 5))] == [
        True
    ] * 3


def test_grid_of_the_page_on_running_is_valid(tmp_path):
    page = next(page for page in PAGES if page_name(page) == "docs/running.md")
    (block,) = [block for block in page.blocks if block.language == "yaml" and "workload:" in block.text]
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "grid.yml").write_text(block.text)
    written = yaml.safe_load(block.text)
    cells = expand(load_grid(tmp_path / "grid.yml"), {})
    assert len(cells) == len(written["arms"]) * 3  # 2 batch sizes x 2 precisions, less one
