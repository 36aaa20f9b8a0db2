"""The Markdown pages of this repository: their links, anchors, blocks and what they have in backquotes."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("docs", "examples", "charts", "benchmarks")
_PARSER: Final = MarkdownIt("commonmark").enable("table")


class Block(NamedTuple):
    """A fenced block: what stands behind its backquotes, and its text."""

    language: str
    text: str


@dataclass(frozen=True)
class Page:
    """A page, by its path below the root of the repository."""

    path: str

    @cached_property
    def tokens(self) -> list[Token]:
        """The page, parsed."""
        return _PARSER.parse((ROOT / self.path).read_text(encoding="utf-8"))

    @cached_property
    def links(self) -> tuple[str, ...]:
        """The targets of its links and pictures."""
        found = [token.attrGet("href") or token.attrGet("src") for token in self._inline()]
        return tuple(str(target) for target in found if target)

    @cached_property
    def anchors(self) -> frozenset[str]:
        """What can follow # in a link to it."""
        slugs: Counter[str] = Counter()
        anchors = set()
        for token, inline in zip(self.tokens, self.tokens[1:], strict=False):
            if token.type == "heading_open":
                slug = slug_of("".join(child.content for child in inline.children or ()))
                anchors.add(f"{slug}-{slugs[slug]}" if slugs[slug] else slug)
                slugs[slug] += 1
        return frozenset(anchors)

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """Its fenced blocks."""
        return tuple(Block(token.info.strip(), token.content) for token in self.tokens if token.type == "fence")

    @cached_property
    def spans(self) -> tuple[str, ...]:
        """What it has in backquotes within a text."""
        return tuple(token.content for token in self._inline() if token.type == "code_inline")

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """Lines to type: those of blocks without a language, and what stands in backquotes."""
        lines = [line for block in self.blocks if not block.language for line in shell_lines(block.text)]
        return (*lines, *self.spans)

    def _inline(self) -> Iterator[Token]:
        for token in self.tokens:
            yield from token.children or ()


def slug_of(heading: str) -> str:
    """Return the anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def shell_lines(block: str) -> list[str]:
    """Return the commands of a block: continued lines as one, without prompts and comments."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [re.sub(r"\s+#.*|^\$ ", "", line).strip() for line in joined.splitlines() if line.strip()]


@cache
def pages() -> tuple[Page, ...]:
    """Return all pages."""
    found = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
    return tuple(Page(path.relative_to(ROOT).as_posix()) for path in sorted(found))
