"""What the tests of rules share: the documented table of operators, and a plain, slow interpreter of rules."""

import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from cloudevents_kit import Event
from cloudevents_kit.stages import Condition, Rule
from tests.support.events import new

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"


class Cell(NamedTuple):
    """One claim of the documented table."""

    place: str
    condition: str
    found: str
    holds: bool

    @property
    def event(self) -> Event:
        if self.found == "missing":
            return new()
        value = json.loads(self.found)
        return new(data={"x": value}) if self.place == "data" else new(x=value)

    @property
    def parsed(self) -> Condition:
        op, _, value = self.condition.partition(" ")
        wanted = {"value": json.loads(value)} if value else {}
        return Condition("data.x" if self.place == "data" else "x", op, **wanted)  # type: ignore[arg-type]


def section(title: str) -> str:
    """Return the section ``title`` of docs/rules.md."""
    found = re.search(rf"^#+ {title}$(.*?)(?=^#|\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def documented() -> list[Cell]:
    """Return every cell of the tables of operators."""
    cells: list[Cell] = []
    head: list[str] = []
    for line in section("Operators").splitlines():
        row = [cell.strip().strip("`") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not row:
            head = []
        elif not head:
            head = row
        elif set(line) - set("|- "):
            assert {*row[1:]} <= {"yes", "-"}, line
            cells += [
                Cell(head[0], row[0], found, said == "yes") for found, said in zip(head[1:], row[1:], strict=True)
            ]
    return cells


# A naive reading of the documentation: no closures, no index, nothing shared with the package.


def holds(condition: Condition, event: Event) -> bool:
    """Tell whether ``condition`` holds for ``event``."""
    is_data = condition.field.startswith("data")
    found = _find(condition.field, event)
    if condition.op == "exists":
        return found is not ...
    if condition.op == "not_exists":
        return found is ...
    if found is ...:
        return condition.missing
    return _says(condition.op, found, condition.value, is_data=is_data)


def _find(path: str, event: Event) -> Any:
    if not path.startswith("data"):
        return event.get(path, ...)
    found = event.data if event.has_data else ...
    for step in re.findall(r"\w+", path)[1:]:
        if isinstance(found, dict):
            found = found.get(step, ...)
        elif isinstance(found, list) and step.isdigit() and int(step) < len(found):
            found = found[int(step)]
        else:
            return ...
    return found


def _says(op: str, found: Any, wanted: Any, *, is_data: bool) -> bool:
    if op.startswith("not_") or op == "ne":
        return not _says({"ne": "eq"}.get(op, op.removeprefix("not_")), found, wanted, is_data=is_data)
    if op == "in":
        return any(_says("eq", found, one, is_data=is_data) for one in wanted)
    if op == "between":
        return all(_says(*one, is_data=is_data) for one in (("gte", found, wanted[0]), ("lte", found, wanted[1])))
    if op == "contains" and isinstance(found, list):
        return any(_says("eq", one, wanted, is_data=is_data) for one in found)
    if not is_data:
        found = _as_wanted(found, wanted)
    if _kind(found) != _kind(wanted):
        return False
    return _PLAIN[op](found, wanted)


_PLAIN: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda found, wanted: found == wanted,
    "gt": lambda found, wanted: found > wanted,
    "gte": lambda found, wanted: not found < wanted,
    "lt": lambda found, wanted: found < wanted,
    "lte": lambda found, wanted: not found > wanted,
    "contains": lambda found, wanted: isinstance(found, str) and wanted in found,
    "starts_with": lambda found, wanted: found[: len(wanted)] == wanted,
    "ends_with": lambda found, wanted: found[::-1][: len(wanted)] == wanted[::-1],
    "regex": lambda found, wanted: re.search(wanted, found) is not None,
}


def _as_wanted(found: Any, wanted: Any) -> Any:
    text = json.dumps(found) if isinstance(found, bool | int) else found
    if isinstance(wanted, str):
        return text
    try:
        read = json.loads(text)
    except ValueError:
        return text
    return read if _kind(read) == _kind(wanted) else text


def _kind(value: Any) -> str:
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def first_rule(rules: Sequence[Rule], event: Event) -> str | None:
    """Return the name of the rule that decides about ``event``."""
    for rule in sorted(rules, key=lambda rule: -rule.priority):
        if all(_node_holds(node, event) for node in rule.when):  # type: ignore[union-attr]
            return rule.name
    return None


def _node_holds(node: Any, event: Event) -> bool:
    if isinstance(node, Condition):
        return holds(node, event)
    joined = [_node_holds(member, event) for member in node.members]
    return all(joined) if node.join == "all" else any(joined)


def at(text: str) -> datetime:
    """Read a time."""
    return datetime.fromisoformat(text)
