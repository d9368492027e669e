"""Pages of the documentation, taken apart: code blocks, links, headings, tables; and how their code is run."""

import ast
import asyncio
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
STAND_IN = "http://localhost:8080/"
"""The URL that stands for the reader's destination on every page."""

_fence = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_link = re.compile(r"(?<!!)\[[^]]+\]\((?P<target>[^)\s]+)\)")
_heading = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    language: str
    serves: bool
    """Whether it serves until it is told to stop: a block of "python serve"."""
    line: int
    """Number of the page's line above its first one."""
    body: str


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def blocks(self) -> list[Block]:
        found = []
        for fence in _fence.finditer(self.text):
            language, _, rest = fence["info"].partition(" ")
            line = self.text.count("\n", 0, fence.start("body"))
            found.append(Block(language, rest == "serve", line, fence["body"]))
        return found

    @property
    def prose(self) -> str:
        return _fence.sub("", self.text)

    @property
    def links(self) -> list[str]:
        return [link["target"] for link in _link.finditer(self.prose)]

    @property
    def anchors(self) -> set[str]:
        """The fragments that a link to this page may name, as GitHub makes them."""
        texts = [heading["text"].lower() for heading in _heading.finditer(self.prose)]
        return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}

    def table(self, head: str) -> list[list[str]]:
        """Return the rows below the table head whose first cell is ``head``."""
        lines = iter(self.text.splitlines())
        next(line for line in lines if _cells(line)[:1] == [head])
        next(lines)
        rows = []
        for line in lines:
            if not line.startswith("|"):
                break
            rows.append(_cells(line))
        return rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []


PAGES = [Page(ROOT / "README.md"), *map(Page, sorted((ROOT / "docs").glob("*.md")))]


def run_blocks(page: Page, url: str) -> None:
    """Run the page's Python blocks in their order, in one module, on a loop of their own; ``url`` is the stand-in's."""
    with _module(f"page_{page.path.stem}") as module:
        asyncio.run(_run_blocks(page, url, module))


async def _run_blocks(page: Page, url: str, module: ModuleType) -> None:
    for block in page.blocks:
        if block.language == "python" and not block.serves:
            source = "\n" * block.line + block.body.replace(STAND_IN, url)
            code = compile(source, str(page.path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            running = eval(code, vars(module))
            if code.co_flags & inspect.CO_COROUTINE:
                await running


@contextmanager
def _module(name: str) -> Iterator[ModuleType]:
    module = sys.modules[name] = ModuleType(name)
    try:
        yield module
    finally:
        del sys.modules[name]
