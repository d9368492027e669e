"""Conditions of rules: a field of the event, an operator and a value, joined by all and any, compiled to closures.

A field is the name of an attribute, an extension or a core one, or a path into the data. What is compiled is called
with the event and a list, empty at first, in which the first condition that finds the event's data unreadable leaves
the error for the others. Knows no rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from cloudevents_kit._errors import CloudEventsError, EventError
from cloudevents_kit._event import Event
from cloudevents_kit._paths import MISSING, read_path
from cloudevents_kit.stages._operators import (
    OPERATORS,
    Field,
    Holds,
    Operator,
    RuleError,
    compile_operator,
    near,
)

DEEPEST = 8
MOST_CONDITIONS = 200
_LONGEST_FIELD = 500

#: Why the data of an event cannot be read, once a condition has found that out.
Unreadable = list[CloudEventsError]
Test = Callable[[Event, Unreadable], bool]

#: Attributes that the documents of CloudEvents define as Timestamp: text wanted of them is a time, too.
_TIMES = frozenset({"time", "expirytime", "recordedtime", "deprecationfrom", "deprecationsunset"})


@dataclass(frozen=True, slots=True)
class Condition:
    """What one field of an event has to be: ``Condition("data.total", "gt", 100)``.

    Raises RuleError for a field, an operator or a value that no event could satisfy.
    """

    field: str
    """Name of an attribute, or a path into the data such as ``data.items[0].sku``."""
    op: Operator
    """What to ask of the field."""
    value: Any = ...
    """What to compare it with: text, a number, a Boolean, None, an aware datetime; a list for in, not_in, between."""
    _: KW_ONLY
    missing: bool = False
    """Whether the condition holds for an event that has no such field."""

    def __post_init__(self) -> None:
        """Check all of it."""
        if isinstance(self.value, list | set):
            object.__setattr__(self, "value", tuple(self.value))
        compile_condition(self)


@dataclass(frozen=True, slots=True)
class Group:
    """Several conditions, joined."""

    join: Literal["all", "any"]
    members: tuple[Condition | Group, ...]

    def __post_init__(self) -> None:
        """Check how they are joined; the members are checked with the rule."""
        if self.join not in {"all", "any"}:
            raise RuleError("join", f"must be 'all' or 'any', not {str(self.join)[:40]!r}")


Node = Condition | Group
When = Condition | Group | Mapping[str, Any]


def read_when(when: object) -> tuple[Node, ...]:
    """Return the conditions of a rule, all of which must hold. Raises RuleError, with the path below the rule."""
    reader = _Reader()
    if isinstance(when, Condition | Group | Mapping):
        return (reader.node(when, "when", 1),)
    return reader.nodes(when, "when", 1)


class _Reader:
    """Reads the conditions of one rule, and counts them: a few dicts that hold one another may stand for millions."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MOST_CONDITIONS

    def nodes(self, nodes: object, path: str, depth: int) -> tuple[Node, ...]:
        if isinstance(nodes, str) or not isinstance(nodes, Sequence):
            raise RuleError(path, f"must be a list of conditions, not {type(nodes).__name__}")
        return tuple(self.node(node, f"{path}[{at}]", depth) for at, node in enumerate(nodes))

    def node(self, node: object, path: str, depth: int) -> Node:
        if isinstance(node, Group):
            return self._group(node.join, node.members, path, depth)
        if isinstance(node, Mapping):
            for join in ("all", "any"):
                if join in node:
                    check_fields(node, (join,), path)
                    return self._group(join, node[join], path, depth)
        self._left -= 1
        if self._left < 0:
            raise RuleError("when", f"has more than {MOST_CONDITIONS} conditions")
        return _read_condition(node, path)

    def _group(self, join: Literal["all", "any"], members: object, path: str, depth: int) -> Group:
        path = f"{path}.{join}"
        if depth >= DEEPEST:
            raise RuleError(path, f"is nested more than {DEEPEST} deep")
        found = self.nodes(members, path, depth + 1)
        if not found:
            raise RuleError(path, "must have at least one condition")
        return Group(join, found)


def _read_condition(node: object, path: str) -> Condition:
    if isinstance(node, Condition):
        return node
    if not isinstance(node, Mapping):
        raise RuleError(path, f"must be a condition, not {type(node).__name__}", hint='{"field": ..., "op": ...}')
    check_fields(node, ("field", "op", "value", "missing"), path, needed=("field", "op"))
    try:
        return Condition(**node)
    except RuleError as error:
        raise error.within(path) from None


def check_fields(
    given: Mapping[Any, object], known: tuple[str, ...], path: str, *, needed: tuple[str, ...] = ()
) -> None:
    """Raise RuleError for the first name among ``given`` that is not ``known``, or that is ``needed`` and missing."""
    for name in given:
        if name not in known:
            shown = f"{path}.{name}" if path else str(name)
            raise RuleError(shown[:_LONGEST_FIELD], "is not known here", hint=near(name, known))
    for name in needed:
        if name not in given:
            raise RuleError(f"{path}.{name}" if path else name, "is required")


def conditions_of(nodes: Iterable[Node]) -> Iterator[Condition]:
    """Go through all conditions, those in groups too."""
    for node in nodes:
        if isinstance(node, Condition):
            yield node
        else:
            yield from conditions_of(node.members)


def compile_all(nodes: Sequence[Node]) -> Test | None:
    """Return what tells whether all of ``nodes`` hold; None if there are none."""
    tests = [compile_condition(node) if isinstance(node, Condition) else _compile_group(node) for node in nodes]
    return _join_all(tests) if tests else None


def _compile_group(group: Group) -> Test:
    tests = [compile_condition(node) if isinstance(node, Condition) else _compile_group(node) for node in group.members]
    return _join_all(tests) if group.join == "all" else _join_any(tests)


def _join_all(tests: Sequence[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]
    if len(tests) == 2:
        first, second = tests
        return lambda event, unreadable: first(event, unreadable) and second(event, unreadable)

    def all_hold(event: Event, unreadable: Unreadable) -> bool:
        for test in tests:  # noqa: SIM110 - a generator costs more than what it asks
            if not test(event, unreadable):
                return False
        return True

    return all_hold


def _join_any(tests: Sequence[Test]) -> Test:
    def one_holds(event: Event, unreadable: Unreadable) -> bool:
        for test in tests:  # noqa: SIM110 - as above
            if test(event, unreadable):
                return True
        return False

    return tests[0] if len(tests) == 1 else one_holds


def compile_condition(condition: Condition) -> Test:
    """Return what tells whether ``condition`` holds. Raises RuleError."""
    op, value, absent = condition.op, condition.value, condition.missing
    if op not in OPERATORS:
        raise RuleError("op", f"{str(op)[:40]!r} is no operator", hint=near(op, OPERATORS))
    if not isinstance(absent, bool):
        raise RuleError("missing", f"must be true or false, not {type(absent).__name__}")
    name = _check_field(condition.field)
    is_attribute = re.split(r"[.\[]", name, maxsplit=1)[0] != "data"
    if op in {"exists", "not_exists"}:
        if value is not ... or absent:
            raise RuleError("missing" if absent else "value", f"says nothing beside {op}")
        wanted = op == "exists"
        return (
            _has_attribute(name, wanted=wanted) if is_attribute else _in_data(name, lambda _: wanted, absent=not wanted)
        )
    if value is ...:
        raise RuleError("value", "is required")
    holds = compile_operator(op, value, Field(attribute=is_attribute, time=name in _TIMES))
    if not is_attribute:
        return _in_data(name, holds, absent=absent)
    if op == "eq" and isinstance(value, str) and name not in _TIMES and not absent:
        return _equal_text(name, value, holds)
    return _attribute(name, holds, absent=absent)


# Attributes are read as the core reads them: a property, or a function, takes longer than the rest of a condition.


def _has_attribute(name: str, *, wanted: bool) -> Test:
    return lambda event, _: (name in event._attributes) is wanted  # noqa: SLF001


def _attribute(name: str, holds: Holds, *, absent: bool) -> Test:
    def test(event: Event, _: Unreadable) -> bool:
        found = event._attributes.get(name)  # noqa: SLF001
        return absent if found is None else holds(found)

    return test


def _equal_text(name: str, wanted: str, holds: Holds) -> Test:
    """Compare text with text at once: most conditions do nothing else."""

    def test(event: Event, _: Unreadable) -> bool:
        found = event._attributes.get(name)  # noqa: SLF001
        return found == wanted if found is None or type(found) is str else holds(found)

    return test


def _in_data(path: str, holds: Holds, *, absent: bool) -> Test:
    """Test what is at ``path``; data that cannot be read is tried once per event, however many rules ask."""
    read = read_path(path)

    def test(event: Event, unreadable: Unreadable) -> bool:
        if unreadable:
            raise unreadable[0]
        try:
            found = read(event)
        except CloudEventsError as error:
            unreadable.append(error)
            raise
        return absent if found is MISSING else holds(found)

    return test


def _check_field(field: object) -> str:
    """Return ``field`` if it is an attribute's name or a path into the data. Raises RuleError."""
    if not isinstance(field, str):
        raise RuleError("field", f"must be text, not {type(field).__name__}")
    if len(field) > _LONGEST_FIELD:
        raise RuleError("field", f"is longer than {_LONGEST_FIELD} characters")
    try:
        read_path(field)
    except EventError as error:
        raise RuleError("field", f"{field!r} names no attribute: {error.rule}", hint=error.hint) from None
    except ValueError as error:
        raise RuleError("field", str(error).removeprefix("path: ")) from None
    return field
