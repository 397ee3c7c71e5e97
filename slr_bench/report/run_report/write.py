"""From a run directory to its report files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from slr_bench.errors import ConfigError, NothingMeasuredError
from slr_bench.report.charts.matplotlib_canvas import Picture, kept_picture
from slr_bench.report.formats import html, markdown
from slr_bench.report.run_report.content import RunContent, read_content
from slr_bench.report.run_report.pictures import draw_pictures
from slr_bench.report.run_report.pictures_over_time import TIMELINES
from slr_bench.report.text.words import plain


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report."""

    html: Path
    markdown: Path
    figures: tuple[Path, ...]
    """Each picture as SVG and as PNG."""


def write_reports(run_dir: Path) -> ReportPaths:
    """Read ``run_dir`` and :func:`write_content` of it."""
    return write_content(read_content(run_dir), run_dir)


def write_content(content: RunContent, run_dir: Path) -> ReportPaths:
    """Write ``report.html``, ``report.md`` and ``figures/`` into ``run_dir``.

    Raises:
        ConfigError: the directory cannot be written; or its ``grid.json`` is lost: the files are written all the same.
        NothingMeasuredError: no run ended ok or out of memory; the files are written all the same.
    """
    pictures = draw_pictures(content)
    kept = _kept(run_dir / "figures", {picture.name for picture in pictures})
    pictures += kept
    paths = ReportPaths(run_dir / "report.html", run_dir / "report.md", _figure_paths(run_dir / "figures", pictures))
    try:
        (run_dir / "figures").mkdir(exist_ok=True)
        for picture, svg, png in zip(pictures, paths.figures[::2], paths.figures[1::2], strict=True):
            svg.write_text(picture.svg, encoding="utf-8")
            png.write_bytes(picture.png)
        paths.markdown.write_text(markdown.render(content.report, pictures), encoding="utf-8")
        paths.html.write_text(html.render(content.report, kept), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write the report: {error.filename}: {error.strerror}; make the run directory writable, or copy it"
        ) from error
    if content.directory.fault:
        raise ConfigError(content.directory.fault)
    if not content.measured:
        raise NothingMeasuredError(f"nothing was measured: {_why_nothing(content)}; {paths.markdown} lists all")
    return paths


def _kept(figures: Path, drawn: Collection[str]) -> list[Picture]:
    """Pictures over time from when the series (``samples/``) were there: without them they cannot be drawn again."""
    found = []
    for name, title, what in TIMELINES.values():
        svg, png = figures / f"{name}.svg", figures / f"{name}.png"
        if name not in drawn and svg.is_file() and png.is_file():
            alt = f"{what[0].upper()}{what[1:]}, drawn when the series were still in samples/."
            found.append(kept_picture(name, title, alt, svg.read_text(encoding="utf-8"), png.read_bytes()))
    return found


def _why_nothing(content: RunContent) -> str:
    """The commonest cause in a line."""
    found = content.directory
    ends = Counter(f"{record.outcome}: {record.reason}" for record in found.records)
    causes = ends or Counter(found.unreadable.values())
    if not causes:
        return f"{found.store.directory} has no record of a run"
    [(why, count)] = causes.most_common(1)
    if not ends:
        word = f"none of the {len(found.unreadable)} records in {found.store.directory} can be read"
        return f"{word} ({plain(why)}); measure it again with this version"
    others = f", and {ends.total() - count} others" if count < ends.total() else ""
    return f"no run in {found.store.directory} ended ok or out of memory ({count} as {plain(why)}{others})"


def _figure_paths(directory: Path, pictures: list[Picture]) -> tuple[Path, ...]:
    return tuple(directory / f"{picture.name}.{kind}" for picture in pictures for kind in ("svg", "png"))
