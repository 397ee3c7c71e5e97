"""``docs/reading_the_report.md`` has a heading for every part that a report can have, and for no other."""

import ast
from pathlib import Path

from markdown_page import Page

from slr_bench.report.text.wording import OUTCOME_WORDS

ROOT = Path(__file__).parents[4]
REPORT = ROOT / "slr_bench" / "report"
PAGE = Page(ROOT / "docs" / "reading_the_report.md")


def modules_from(name):
    """Return a module of ``slr_bench.report`` and all modules that it imports from there."""
    found, waiting = {}, [name]
    while waiting:
        name = waiting.pop()
        path = REPORT / f"{name.replace('.', '/')}.py"
        if name in found or not path.is_file():
            continue
        found[name] = ast.parse(path.read_text())
        for node in ast.walk(found[name]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("slr_bench.report."):
                module = node.module.removeprefix("slr_bench.report.")
                waiting += [module, *(f"{module}.{alias.name}" for alias in node.names)]
    return found


def titles_in(tree):
    """Yield the title of each ``Section(...)``: a literal, or a constant of the module."""
    named = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Section":
            title = node.args[1]
            yield title.value if isinstance(title, ast.Constant) else named[title.id]


def headings_below(start):
    """Return the headings of level 3 below a heading of level 2."""
    found, inside = [], False
    for level, text in PAGE.headings:
        if level <= 2:
            inside = text == start
        elif inside:
            found.append(text)
    return found


def test_every_part_of_a_report_is_explained():
    titles = {title for tree in modules_from("run_report.content").values() for title in titles_in(tree)}
    assert len(titles) >= 10
    assert titles == set(headings_below("The parts"))


def test_every_part_of_a_profile_is_explained():
    tree = modules_from("views.profile")["views.profile"]
    assert {*titles_in(tree)} == set(headings_below("The page of `slr-bench profile`"))


def test_every_outcome_has_the_word_of_the_report():
    spans = {*PAGE.code_spans}
    # An invalid run is thrown away, or kept under the outcome it had: no row of the grid says so.
    assert {words for outcome, words in OUTCOME_WORDS.items() if outcome != "invalid_env"} <= spans
