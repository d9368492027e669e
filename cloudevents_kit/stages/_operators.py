"""The sixteen operators of rules: what each one says of a value that was found, compiled once for the value wanted.

A value is read as the kind of thing that is wanted, and holds nothing if it is none. In data the kinds are those of
JSON. Attributes have lost theirs when they came in HTTP headers, so that there text counts as the number or Boolean
it spells, and the reverse: a rule says the same of an event in every content mode. Knows no events and no rules.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from math import isfinite
from typing import Any, Final, Literal, get_args

from cloudevents_kit._errors import CloudEventsError, EventError
from cloudevents_kit._values import is_timestamp, parse_timestamp
from cloudevents_kit.stages._patterns import compile_pattern

Operator = Literal[
    "eq", "ne", "gt", "gte", "lt", "lte", "in", "not_in", "contains", "not_contains",
    "starts_with", "ends_with", "between", "exists", "not_exists", "regex",
]  # fmt: skip
OPERATORS: tuple[str, ...] = get_args(Operator)
Holds = Callable[[Any], bool]
Read = Callable[[Any], Any]

#: What a value is read as that is not of the kind that is wanted.
_NOTHING: Final = object()
MOST_VALUES = 1_000
LONGEST_TEXT = 10_000

_number = re.compile(r"-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,18})?").fullmatch


class RuleError(CloudEventsError, ValueError):
    """A rule, or a set of them, cannot be used; the message says where, what and, if it can, what was meant.

    ``path`` is the place, such as ``rules[2].when[0].op``; ``name`` the name of the rule, once it is known.
    """

    def __init__(self, path: str, problem: str, *, hint: str = "", name: str | None = None) -> None:
        """Describe the ``problem`` at ``path``; ``hint`` says how to mend it."""
        self.path = path
        self.problem = problem
        self.hint = hint
        self.name = name
        place = path if name is None else f"rule {name!r}: {path}" if path else f"rule {name!r}"
        super().__init__(f"{place}: {problem}" + (f" ({hint})" if hint else ""))

    def within(self, path: str, *, name: str | None = None) -> RuleError:
        """Return the same error as it looks from ``path`` around it."""
        inner = f".{self.path}" if path and self.path and not self.path.startswith("[") else self.path
        return RuleError(path + inner, self.problem, hint=self.hint, name=name or self.name)


def near(word: object, words: tuple[str, ...]) -> str:
    """Return the hint for a ``word`` that is none of ``words``."""
    found = get_close_matches(word, words, 1) if isinstance(word, str) else []
    return f"did you mean {found[0]!r}?" if found else f"one of {', '.join(words)}" if len(words) < 20 else ""


def kind_of(value: object) -> str:
    """Return the kind of a value that is wanted. Raises RuleError if no operator takes such values."""
    kind = next((kind for known, kind in _KINDS.items() if isinstance(value, known)), "")
    if isinstance(value, list | tuple | set | frozenset):
        raise RuleError("value", "must be a single value", hint="use in or not_in for several")
    if not kind:
        hint = "a value is text, a number, true, false, null or a time with its offset"
        raise RuleError("value", f"cannot be of type {type(value).__name__}", hint=hint)
    if isinstance(value, float) and not isfinite(value):
        raise RuleError("value", "must be finite")
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        raise RuleError("value", f"is longer than {LONGEST_TEXT} characters")
    if isinstance(value, datetime) and value.utcoffset() is None:
        raise RuleError("value", "must carry an offset", hint="a time without one names no moment")
    return kind


_KINDS: dict[Any, str] = {
    str: "text",
    bool: "flag",  # before int, of which it is one
    int | float: "number",
    type(None): "null",
    datetime: "time",
}


def _text(found: Any) -> Any:
    return found if type(found) is str else _NOTHING


def _flag(found: Any) -> Any:
    return found if type(found) is bool else _NOTHING


def _plain_number(found: Any) -> Any:
    return found if type(found) is int or type(found) is float else _NOTHING


def _null(found: Any) -> Any:
    return found if found is None else _NOTHING


def _time(found: Any) -> Any:
    if type(found) is not str or not is_timestamp(found):
        return _NOTHING
    try:
        return parse_timestamp(found)
    except EventError:  # of the year 0: there is no datetime for it
        return _NOTHING


def _attribute_text(found: Any) -> Any:
    """Write what is found as it is written in an HTTP header."""
    if type(found) is str:
        return found
    return str(found) if type(found) is int else "true" if found else "false"


def _attribute_number(found: Any) -> Any:
    if type(found) is str:
        if found.isdecimal() and found.isascii() and len(found) < 20 and found[0] != "0":
            return int(found)
        spelled = _number(found)
        return _NOTHING if spelled is None else float(found) if "." in found else int(found)
    return found if type(found) is int else _NOTHING


def _attribute_flag(found: Any) -> Any:
    return found if type(found) is bool else _SPELLED.get(found, _NOTHING)


_SPELLED = {"true": True, "false": False}
_IN_DATA: dict[str, Read] = {"text": _text, "number": _plain_number, "flag": _flag, "null": _null, "time": _time}
#: Readers that only look at the type, with the types that they let pass: a call less for each comparison.
_READ_AS_THEY_ARE: dict[Read, set[type]] = {
    _text: {str},
    _plain_number: {int, float},
    _flag: {bool},
    _null: {type(None)},
}
_IN_ATTRIBUTES: dict[str, Read] = {
    "text": _attribute_text,
    "number": _attribute_number,
    "flag": _attribute_flag,
    "time": _time,
}


class Field:
    """How the values of one field are read: those of an attribute, perhaps one that holds a time, or those in data."""

    def __init__(self, *, attribute: bool, time: bool = False) -> None:
        self.attribute = attribute
        self._is_time = time
        self._readers = _IN_ATTRIBUTES if attribute else _IN_DATA

    def wanted(self, value: Any) -> tuple[Read, Any]:
        """Return how to read a value to compare it with ``value``, and what that then is. Raises RuleError."""
        kind = kind_of(value)
        if self._is_time and kind != "time":
            if kind != "text" or not is_timestamp(value):
                raise RuleError("value", "must be a time of RFC 3339", hint="for example 2018-04-05T17:31:00Z")
            kind, value = "time", _moment(value)
        if kind == "null" and self.attribute:
            raise RuleError("value", "an attribute is never null", hint="use exists or not_exists")
        return self._readers[kind], value

    def text(self, value: Any) -> tuple[Read, str]:
        """Return how to read text, and the text that is wanted. Raises RuleError."""
        if kind_of(value) != "text":
            raise RuleError("value", f"must be text, not {type(value).__name__}")
        return self._readers["text"], value


def _moment(text: str) -> datetime:
    try:
        return parse_timestamp(text, "value")
    except EventError as error:  # of the year 0
        raise RuleError("value", error.rule) from None


def compile_operator(op: str, value: Any, field: Field) -> Holds:
    """Return what tells whether a value that is there satisfies ``op``. Raises RuleError about ``value``."""
    if op in _NEGATED:
        positive = compile_operator(_NEGATED[op], value, field)
        return lambda found: not positive(found)
    if op in _COMPARED:
        return _compared(_COMPARED[op], *field.wanted(value), ordered=op != "eq")
    return _OTHERS[op](value, field)


def _compared(compare: Callable[[Any, Any], bool], read: Read, wanted: Any, *, ordered: bool) -> Holds:
    if ordered:
        _check_ordered(wanted)
    types = _READ_AS_THEY_ARE.get(read)
    if types is not None:
        if compare is operator.eq:  # what most conditions ask
            return lambda found: type(found) in types and found == wanted
        return lambda found: type(found) in types and compare(found, wanted)

    def compared(found: Any) -> bool:
        value = read(found)
        return value is not _NOTHING and compare(value, wanted)

    return compared


def _check_ordered(wanted: Any) -> None:
    if wanted is None or isinstance(wanted, bool):
        raise RuleError("value", "must be a number, text or a time", hint="others have no order")


def _members(value: Any, count: int | None = None) -> list[Any]:
    if not isinstance(value, list | tuple | set | frozenset):
        raise RuleError("value", f"must be a list, not {type(value).__name__}")
    if count is not None and len(value) != count:
        raise RuleError("value", f"must have {count} members, not {len(value)}", hint="the lowest and the highest")
    if not 1 <= len(value) <= MOST_VALUES:
        raise RuleError("value", f"must have 1 to {MOST_VALUES} members, not {len(value)}")
    return [*value]


def _in(value: Any, field: Field) -> Holds:
    by_reader: dict[Read, set[Any]] = {}
    for at, member in enumerate(_members(value)):
        try:
            read, wanted = field.wanted(member)
        except RuleError as error:
            raise RuleError(f"value[{at}]", error.problem, hint=error.hint) from None
        by_reader.setdefault(read, set()).add(wanted)
    groups = [*by_reader.items()]
    if len(groups) == 1:
        ((read_all, all_wanted),) = groups
        return lambda found: read_all(found) in all_wanted
    return lambda found: any(read(found) in members for read, members in groups)


def _between(value: Any, field: Field) -> Holds:
    (read, low), (read_high, high) = (field.wanted(bound) for bound in _members(value, 2))
    _check_ordered(low)
    if read is not read_high:
        raise RuleError("value", "must have two members of one kind")
    if low > high:
        raise RuleError("value", "must have the lowest first, or nothing is between")

    def between(found: Any) -> bool:
        value = read(found)
        return value is not _NOTHING and low <= value <= high

    return between


def _contains(value: Any, field: Field) -> Holds:
    if field.attribute:
        read, part = field.text(value)
        return lambda found: part in read(found)
    is_text = kind_of(value) == "text"
    equal = compile_operator("eq", value, field)

    def contains(found: Any) -> bool:
        if type(found) is list:
            return any(equal(member) for member in found)
        return is_text and type(found) is str and value in found

    return contains


def _starts_with(value: Any, field: Field) -> Holds:
    read, part = field.text(value)
    return lambda found: (text := read(found)) is not _NOTHING and text.startswith(part)


def _ends_with(value: Any, field: Field) -> Holds:
    read, part = field.text(value)
    return lambda found: (text := read(found)) is not _NOTHING and text.endswith(part)


def _regex(value: Any, field: Field) -> Holds:
    read, pattern = field.text(value)
    try:
        is_found = compile_pattern(pattern)
    except ValueError as error:
        raise RuleError("value", str(error), hint="RE2 syntax: no look-around, no back references") from None
    return lambda found: (text := read(found)) is not _NOTHING and is_found(text)


_NEGATED = {"ne": "eq", "not_in": "in", "not_contains": "contains"}
_COMPARED: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_OTHERS: dict[str, Callable[[Any, Field], Holds]] = {
    "in": _in,
    "between": _between,
    "contains": _contains,
    "starts_with": _starts_with,
    "ends_with": _ends_with,
    "regex": _regex,
}
