"""The files of a report: valid and safe HTML, Markdown tables, pictures; and the terminal."""

from __future__ import annotations

import base64
import io
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from fake_runs import MIB, FakeRun, fill_large, step_metrics
from hostile_runs import fill_hostile
from markdown_it import MarkdownIt
from rich.console import Console

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.files import replace_file
from slr_bench.record import Outcome
from slr_bench.report.formats import documents
from slr_bench.report.formats.documents import MAX_ROWS, render_markdown
from slr_bench.report.formats.terminal import print_summary
from slr_bench.report.run_report import write
from slr_bench.report.run_report.content import read_content
from slr_bench.report.run_report.write import write_reports

VOID = {"meta", "br", "wbr", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Collects tags, ids, attributes and text, and checks that elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.text = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(usual_report):
    return Page((usual_report / "report.html").read_text())


def test_page_is_well_formed_with_unique_ids_and_landmarks(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    for landmark in ("header", "nav", "main", "caption", "figcaption"):
        assert landmark in page.tags
    assert page.tags.count("h1") == 1
    assert page.tags.count("svg") == 5  # memory against time; two cells over a step and over the run


def test_every_inner_link_has_its_target(page):
    targets = [value[1:] for name, value in page.attributes if name in ("href", "xlink:href") and value.startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(page.ids)


def test_page_loads_nothing_from_elsewhere(page, usual_report):
    assert not {"link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name == "src" or name.startswith("on")]
    text = (usual_report / "report.html").read_text()
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    assert all(address.startswith(("http://www.w3.org/", "https://www.w3.org/")) for address in addresses)
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_page_shows_the_headline_without_script(page):
    shown = " ".join(page.text)
    for figure in ("8.0× less", "1.50× as long", "+2.0 points", "800.0 MiB", "out of RAM", "slr-bench run"):
        assert figure in shown


def test_header_cells_have_a_scope(usual_report):
    heads = re.findall(r"<th\b[^>]*>", (usual_report / "report.html").read_text())
    assert len(heads) > 20
    assert all("scope=" in head for head in heads)


def test_page_uses_only_colours_of_the_theme(usual_report):
    text = (usual_report / "report.html").read_text()
    style = re.search(r"<style>(.*?)</style>", text, flags=re.DOTALL)[1]
    assert not re.search(r"#[0-9a-f]{3,8}\b", re.sub(r"--[\w-]+: #[0-9a-f]{6};", "", style))
    assert not re.search(r"(fill|stroke|color)\s*[:=]\s*\W?#", text.replace(style, ""))
    defined = set(re.findall(r"--([\w-]+):", text))
    assert set(re.findall(r"var\(--([\w-]+)", text)) <= defined
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    used = {name for drawing in drawings for name in re.findall(r'class="(?:ph )?([\w-]+)"', drawing)}
    assert used
    assert all(f".{name} {{" in style for name in used)


def test_every_chart_has_a_text_description(page):
    named = dict(page.attributes)
    labels = [value for name, value in page.attributes if name == "aria-label"]
    assert "Live bytes over one step. Peak 100.0 MiB in forward." in labels
    assert "optimized (batch_size 8, precision bf16): 170.0 MiB, 84.4 ms" in page.text
    assert named["lang"] == "en"


def test_every_picture_is_written_as_svg_and_png(usual_report):
    names = sorted(path.name for path in (usual_report / "figures").iterdir())
    assert names == [
        f"{name}.{kind}" for name in ("live-bytes", "memory-time", "memory", "ram") for kind in ("png", "svg")
    ]
    for path in (usual_report / "figures").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    for path in (usual_report / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_same_run_gives_identical_files(usual_report):
    kept = {path: path.read_bytes() for path in usual_report.rglob("*") if path.suffix in {".html", ".md", ".svg"}}
    write_reports(usual_report)
    assert {path: path.read_bytes() for path in kept} == kept


def pipes(line):
    return len(re.findall(r"(?<!\\)\|", line))


def check_markdown_tables(text):
    """Every table row has as many cells as its heading."""
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    assert tables
    for table in tables:
        assert len({pipes(line) for line in table.splitlines()}) == 1


def test_markdown_is_short_and_its_tables_are_valid(usual_report):
    text = (usual_report / "report.md").read_text()
    assert len(text) < 20_000
    check_markdown_tables(text)
    assert "| Memory | 800.0 MiB | 100.0 MiB (8.0× less) <sup>1</sup> |" in text
    for image in re.findall(r"\(figures/([\w.-]+)\)", text):
        assert (usual_report / "figures" / image).is_file()
    assert "```sh\nslr-bench run configs/ablation.yml  # measure it\n" in text


def test_hostile_text_is_escaped_in_every_format(new_run):
    directory = fill_hostile(new_run())
    write_reports(directory)
    html = (directory / "report.html").read_text()
    page = Page(html)
    assert page.tags.count("script") == 1
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "&lt;script&gt;alert(1)" in html
    assert not {"img", "b&gt;"} & set(page.tags)
    markdown = (directory / "report.md").read_text()
    check_markdown_tables(markdown)
    assert "<script" not in markdown.split("## Measure it again")[0]
    assert markdown.rstrip().endswith("`````")
    for text in (html, markdown):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "x" * 2100 not in text
    shown_by_github = Page(MarkdownIt("commonmark").enable("table").render(markdown))
    assert not {"script", "style", "iframe"} & set(shown_by_github.tags)
    links = {value for name, value in shown_by_github.attributes if name in ("href", "src")}
    assert all(link.startswith("figures/") for link in links)
    assert len(shown_by_github.tags) > 500
    for path in (directory / "figures").glob("*.svg"):
        ElementTree.parse(path)
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    print_summary(read_content(directory).report, console)
    shown = console.file.getvalue()
    assert "\x1b[2J" not in shown
    assert "[red]markup[/red]" in shown


def test_terminal_shows_headline_and_grid(usual_run):
    console = Console(file=io.StringIO(), width=160)
    print_summary(read_content(usual_run).report, console)
    shown = console.file.getvalue()
    for part in (
        "100.0 MiB (8.0× less)",
        "1.65 s (1.50× as long, n too small)",
        "out of RAM",
        "batch_size 8, precision bf16",
    ):
        assert part in shown


def test_long_table_is_cut_in_markdown_only(new_run):
    run = new_run()
    cells = [run.cell("baseline", own=not n, coordinates={"training.batch_size": n}) for n in range(MAX_ROWS + 5)]
    for cell in cells:
        run.record(cell, 0, step_metrics(MIB, 1.0))
    directory = run.write()
    write_reports(directory)
    assert "5 more rows are in report.html." in (directory / "report.md").read_text()
    grid = re.search(r'<section id="grid".*?</section>', (directory / "report.html").read_text(), flags=re.DOTALL)[0]
    assert grid.count("<tr>") + grid.count('<tr class="strong">') == MAX_ROWS + 6


def test_run_without_measurement_still_gets_a_report(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, outcome=Outcome.CRASH, reason="signal 11")
    directory = run.write()
    with pytest.raises(NothingMeasuredError, match="nothing was measured"):
        write_reports(directory)
    assert "signal 11" in (directory / "report.md").read_text()
    assert Page((directory / "report.html").read_text()).open == []


def test_empty_grid_still_gets_a_report(new_run):
    directory = new_run().write()
    with pytest.raises(NothingMeasuredError):
        write_reports(directory)
    assert "An empty grid" in (directory / "report.html").read_text()


def test_out_of_memory_counts_as_a_measurement(new_run):
    run = new_run()
    run.record(run.cell("baseline"), 0, outcome=Outcome.OOM_GPU, reason="tried to allocate 9 GiB")
    paths = write_reports(run.write())
    assert "tried to allocate 9 GiB" in paths.markdown.read_text()
    assert paths.figures == ()


def test_missing_manifest_and_unwritable_directory_are_config_errors(tmp_path, usual_run):
    with pytest.raises(ConfigError, match=r"no grid\.json"):
        write_reports(tmp_path)
    (usual_run / "figures").write_text("a file")
    with pytest.raises(ConfigError, match="cannot write the report"):
        write_reports(usual_run)


def test_full_disk_is_an_error_that_names_the_file_and_keeps_the_earlier_one(usual_run, monkeypatch):
    paths = write_reports(usual_run)
    earlier = paths.markdown.read_text()

    def fill(path, content, durable):
        if path == paths.markdown:
            raise OSError(28, "No space left on device")  # write() gives no file name
        replace_file(path, content, durable=durable)

    monkeypatch.setattr(write, "replace_file", fill)
    with pytest.raises(ConfigError, match=f"cannot write the report: {paths.markdown}: No space left on device"):
        write_reports(usual_run)
    assert paths.markdown.read_text() == earlier


def test_markdown_of_many_cells_fits_a_comment_and_counts_omitted_rows(tmp_path):
    content = read_content(fill_large(FakeRun(tmp_path / "run"), 200, repeats=1).write())
    text = render_markdown(content.report, [])
    assert 30_000 < len(text.encode()) <= 65_000
    check_markdown_tables(text)
    rows = re.search(r"\*\*train\\_step\*\*\n\n((?:\|.*\n)+)\n(\d+) more rows are in report\.html\.", text)
    assert int(rows[2]) == 200 - (rows[1].count("\n") - 2)
    assert text.count("<details>") == text.count("</details>")


def test_markdown_omits_rows_until_it_fits(tmp_path, monkeypatch):
    content = read_content(fill_large(FakeRun(tmp_path / "run"), 60, repeats=1).write())
    whole = len(render_markdown(content.report, []).encode())
    monkeypatch.setattr(documents, "LIMIT", whole // 2)
    assert len(render_markdown(content.report, []).encode()) <= whole // 2


def test_pictures_over_time_are_kept_when_their_series_are_gone(usual_run):
    write_reports(usual_run)
    before = {path.name: path.read_bytes() for path in (usual_run / "figures").iterdir()}
    assert {"live-bytes.png", "ram.png"} <= before.keys()
    shutil.rmtree(usual_run / "samples")
    (usual_run / "figures" / "ram.svg").write_text("<svg><script>alert(1)</script></svg>")
    write_reports(usual_run)
    assert (usual_run / "figures" / "live-bytes.png").read_bytes() == before["live-bytes.png"]
    text, page = ((usual_run / name).read_text() for name in ("report.md", "report.html"))
    assert "drawn when the series were still in samples/.](figures/live-bytes.png)" in text
    assert base64.b64encode(before["live-bytes.png"]).decode() in page
    assert "img-src data:" in page
    assert "alert(1)" not in page
    for name in ("live-bytes.png", "ram.svg"):
        (usual_run / "figures" / name).unlink()
    write_reports(usual_run)
    assert "live-bytes" not in (usual_run / "report.md").read_text()
    assert "<img" not in (usual_run / "report.html").read_text()
