"""Add to the site the files outside ``docs/`` that its pages link to: links then work in the repository and the site.

mkdocs calls ``on_files`` and ``on_page_markdown``. Files are copied to ``repository/`` in the site; a Markdown page
among them becomes a page. A link to a folder leads to the folder's ``README.md`` and is an error if there is none.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)")
"""Target of a Markdown link or picture, without its anchor; links to the web are left out."""


def on_files(files: Files, config: Any) -> Files:
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    added: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = _target(page, link)
            if target in added or not target.is_file() or target.is_relative_to(DOCS):
                continue
            added.add(target)
            where = _in_site(target)
            level = InclusionLevel.NOT_IN_NAV
            files.append(File.generated(config, where, abs_src_path=str(target), inclusion=level))
            if target.suffix == ".md":
                waiting.append(target)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    source = Path(page.file.abs_src_path)
    here = os.path.dirname(_in_site(source))

    def rewritten(match: re.Match[str]) -> str:
        return os.path.relpath(_in_site(_target(source, match[1])), here)

    return LINK.sub(rewritten, markdown)


def _target(page: Path, link: str) -> Path:
    target = (page.parent / link).resolve()
    return target / "README.md" if target.is_dir() else target


def _in_site(path: Path) -> str:
    """Path inside the site's sources: that under ``docs/``, or under ``repository/`` for all other files."""
    return str(path.relative_to(DOCS) if path.is_relative_to(DOCS) else Path("repository") / path.relative_to(ROOT))
