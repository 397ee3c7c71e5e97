"""A parsed page of Markdown: code blocks, commands, links, tables, and anchors as GitHub makes them."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt


@dataclass(frozen=True)
class Block:
    """A fenced code block: ```` ```python bench.py ```` has the language ``python`` and the file ``bench.py``."""

    language: str
    file: str
    text: str


@dataclass(frozen=True)
class Page:
    path: Path

    @cached_property
    def tokens(self):
        return MarkdownIt("commonmark").enable("table").parse(self.path.read_text())

    @property
    def blocks(self):
        fences = [token for token in self.tokens if token.type == "fence"]
        return [Block(*[*token.info.split(), "", ""][:2], token.content) for token in fences]

    @property
    def links(self):
        """Targets of links and pictures."""
        return [
            child.attrs["href" if child.type == "link_open" else "src"]
            for child in self._inline
            if child.type in ("link_open", "image")
        ]

    @property
    def code_spans(self):
        return [child.content for child in self._inline if child.type == "code_inline"]

    @property
    def headings(self):
        """Level and text."""
        pairs = zip(self.tokens, self.tokens[1:], strict=False)
        return [(int(token.tag[1]), after.content) for token, after in pairs if token.type == "heading_open"]

    @property
    def anchors(self):
        """Return the anchors that GitHub makes.

        They are in lower case, without punctuation, with a hyphen for each space, and numbered from the second on.
        """
        found = []
        for _, text in self.headings:
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            count = sum(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", other) is not None for other in found)
            found.append(f"{slug}-{count}" if count else slug)
        return found

    @property
    def tables(self):
        """Each table as a list of rows, a row as a mapping of heading to text."""
        found, heads, row, rows = [], [], [], []
        for token, after in zip(self.tokens, [*self.tokens[1:], None], strict=True):
            if token.type == "table_open":
                heads, rows = [], []
            elif token.type == "th_open":
                heads.append(after.content)
            elif token.type == "tr_open":
                row = []
            elif token.type == "td_open":
                row.append(after.content)
            elif token.type == "tr_close" and row:
                rows.append(dict(zip(heads, row, strict=True)))
            elif token.type == "table_close":
                found.append(rows)
        return found

    @property
    def commands(self):
        """Lines of shell blocks and spans of code, comments and line continuations taken away."""
        lines = [line for block in self.blocks for line in self.lines(block)]
        return [text for line in [*lines, *self.code_spans] if (text := re.sub(r"(^|\s)#.*", "", line).strip())]

    @staticmethod
    def lines(block):
        """Commands of a shell block, without comments and line continuations; no line of any other block."""
        lines = block.text.replace("\\\n", " ").splitlines() if block.language in ("bash", "sh") else []
        return [text for line in lines if (text := re.sub(r"(^|\s)#.*", "", line).strip())]

    @property
    def _inline(self):
        return [child for token in self.tokens for child in token.children or ()]
