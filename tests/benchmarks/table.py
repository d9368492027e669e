"""The table at the end, and the same rows as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

_HEAD: Final = ("case", "subject", "value", "unit", "us cpu", "against", "ratio", "by cpu", "target", "")
_TEXT_COLUMNS: Final = {0, 1, 3, 5, 8, 9}
_PACKAGES: Final = ("aiohttp", "cloudevents", "msgspec", "uvloop")


@dataclass(frozen=True)
class Row:
    """One line: a subject, its median, and its ratio to what it is measured against."""

    suite: str
    case: str
    subject: str
    value: float
    unit: str
    micros: float | None = None
    against: str = ""
    ratio: float | None = None
    by_cpu: float | None = None
    target: str = ""
    met: bool | None = None


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.case,
        row.subject,
        f"{row.value:,.0f}",
        row.unit,
        "" if row.micros is None else f"{row.micros:,.2f}",
        row.against,
        "" if row.ratio is None else f"{row.ratio:.2f}",
        "" if row.by_cpu is None else f"{row.by_cpu:.2f}",
        row.target,
        {True: "met", False: "NOT MET", None: ""}[row.met],
    )


def text(rows: Sequence[Row]) -> str:
    """All rows as one aligned table."""
    lines = [_HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def aligned(line: tuple[str, ...]) -> str:
        cells = (
            cell.ljust(width) if index in _TEXT_COLUMNS else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    return "\n".join([aligned(lines[0]), "-" * (sum(widths) + 2 * len(widths)), *map(aligned, lines[1:])])


def environment() -> dict[str, str]:
    """The versions a reader needs to compare two runs."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def write_json(path: Path, rows: Sequence[Row], failures: Sequence[str]) -> None:
    """Write rows, failures and versions to a file."""
    document = {"environment": environment(), "rows": [asdict(row) for row in rows], "failures": list(failures)}
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
