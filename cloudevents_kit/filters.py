"""Subscription filters: which events pass, in the dialects of the CloudEvents Subscriptions API, from and to its JSON.

    only_orders = filters.all_of(filters.prefix(type="com.example.order."), filters.not_(filters.exact(source="/test")))
    only_orders(event)                                                    # True or False

A filter compares attributes, never data. What it is given is checked here; what it does is in `_filters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._errors import EventError
from cloudevents_kit._filters import MATCHERS, MAX_DEPTH, MAX_FILTERS, Filter, FilterError, Pair, combined
from cloudevents_kit._values import check_name, check_string, shown
from cloudevents_kit.cesql import MAX_LENGTH, Functions, ParseError
from cloudevents_kit.cesql._budget import Allowance
from cloudevents_kit.cesql._expression import parse_within

__all__ = [
    "MAX_DEPTH",
    "MAX_FILTERS",
    "Filter",
    "FilterError",
    "all_of",
    "any_of",
    "exact",
    "from_json",
    "not_",
    "prefix",
    "sql",
    "suffix",
]

_DIALECTS = (*MATCHERS, "all", "any", "not", "sql")


def exact(attributes: Mapping[str, str] | None = None, /, **more: str) -> Filter:
    """Return the filter that passes events whose attributes are these, in the same case."""
    return _matcher("exact", _both(attributes, more), "exact")


def prefix(attributes: Mapping[str, str] | None = None, /, **more: str) -> Filter:
    """Return the filter that passes events whose attributes begin so."""
    return _matcher("prefix", _both(attributes, more), "prefix")


def suffix(attributes: Mapping[str, str] | None = None, /, **more: str) -> Filter:
    """Return the filter that passes events whose attributes end so."""
    return _matcher("suffix", _both(attributes, more), "suffix")


def _both(attributes: Mapping[str, str] | None, more: Mapping[str, str]) -> Mapping[str, str]:
    if attributes is None:
        return more
    check_kind("attributes", attributes, Mapping, "a mapping of names to text", "or use keyword arguments")
    return {**attributes, **more}


def all_of(*filters: Filter) -> Filter:
    """Return the filter that passes what passes all of ``filters``, of which there is at least one."""
    return combined("all", filters, "all")


def any_of(*filters: Filter) -> Filter:
    """Return the filter that passes what passes at least one of ``filters``."""
    return combined("any", filters, "any")


def not_(inner: Filter) -> Filter:
    """Return the filter that passes what ``inner`` does not."""
    return combined("not", (inner,), "not")


def sql(text: str, *, functions: Functions | None = None) -> Filter:
    """Return the filter that passes events for which a CloudEvents SQL expression is true, without any error."""
    return _expression(text, functions, Allowance(), "sql")


def from_json(value: Sequence[Any] | Mapping[str, Any], *, functions: Functions | None = None) -> Filter:
    """Return the filter of a subscription: its ``filters``, an array all of which must pass, or one object of those.

    An empty array lets every event pass. ``functions`` are for its SQL expressions, which may be as long, all together,
    as a single one may be.

    Raises:
        FilterError: a filter breaks a rule; its ``path`` says which.
    """
    reader = _Reader(functions)
    if isinstance(value, list | tuple):
        return Filter("filters", tuple(reader.read(one, f"filters[{at}]", 1) for at, one in enumerate(value)))
    return reader.read(value, "filter", 1)


class _Reader:
    """Reads one JSON value, and counts what is in it."""

    __slots__ = ("_allowance", "_functions", "_left", "_length")

    def __init__(self, functions: Functions | None) -> None:
        self._functions = functions
        self._left = MAX_FILTERS
        self._length = 0
        self._allowance = Allowance()

    def read(self, value: object, path: str, depth: int) -> Filter:
        """Return the filter that the object ``value`` at ``path`` describes."""
        if not isinstance(value, Mapping):
            raise FilterError(path, f"must be an object, not {type(value).__name__}", hint=_example)
        if len(value) != 1:
            raise FilterError(path, f"must have exactly one dialect, not {len(value)}", hint="put them into all")
        self._count(1, path)
        if depth > MAX_DEPTH:
            raise FilterError(path, f"is nested deeper than {MAX_DEPTH} filters")
        ((dialect, given),) = value.items()
        here = f"{path}.{dialect}"
        if dialect in MATCHERS:
            self._count(len(given) - 1 if isinstance(given, Mapping) else 0, here)
            return _matcher(dialect, given, here)
        if dialect in {"all", "any"}:
            if not isinstance(given, list | tuple):
                raise FilterError(here, f"must be an array of filters, not {type(given).__name__}")
            inner = [self.read(one, f"{here}[{at}]", depth + 1) for at, one in enumerate(given)]
            return combined(dialect, tuple(inner), here)
        if dialect == "not":
            return Filter("not", (self.read(given, here, depth + 1),))
        if dialect == "sql":
            self._length += len(given) if isinstance(given, str) else 0
            if self._length > MAX_LENGTH:
                raise FilterError(here, f"there are more than {MAX_LENGTH} characters of SQL")
            return _expression(given, self._functions, self._allowance, here)
        name = shown(dialect) if isinstance(dialect, str) else ""
        known = ", ".join(_DIALECTS)
        raise FilterError(path, "has an unknown dialect" + (f" {name!r}" if name == dialect else ""), hint=known)

    def _count(self, more: int, path: str) -> None:
        self._left -= more
        if self._left < 0:
            raise FilterError(path, f"there are more than {MAX_FILTERS} filters")


_example = 'for example {"exact": {"type": "com.example.order.created"}}'


def _matcher(dialect: str, attributes: object, path: str) -> Filter:
    if not isinstance(attributes, Mapping):
        raise FilterError(path, f"must be an object of attributes, not {type(attributes).__name__}", hint=_example)
    if not attributes:
        raise FilterError(path, "must have at least one attribute", hint=_example)
    return Filter(dialect, tuple(_pair(name, wanted, path) for name, wanted in attributes.items()))


def _pair(name: object, wanted: object, path: str) -> Pair:
    if not isinstance(name, str):
        raise FilterError(path, f"the names of attributes must be str, not {type(name).__name__}")
    try:
        check_name(name)
    except EventError as error:
        raise FilterError(f"{path}.{shown(name)}", error.rule, hint=error.hint) from None
    here = f"{path}.{name}"
    if not isinstance(wanted, str):
        hint = "an Integer or Boolean attribute is compared as text"
        raise FilterError(here, f"must be a string, not {type(wanted).__name__}", hint=hint)
    if not wanted:
        raise FilterError(here, "must not be empty", hint="presence is tested by sql: EXISTS")
    if len(wanted) > MAX_LENGTH:
        raise FilterError(here, f"is longer than {MAX_LENGTH} characters")
    try:
        return name, check_string(name, wanted)
    except EventError as error:
        raise FilterError(here, error.rule, hint="no event has such text") from None


def _expression(text: object, functions: Functions | None, allowance: Allowance, path: str) -> Filter:
    if not isinstance(text, str):
        raise FilterError(path, f"must be a string, not {type(text).__name__}")
    try:
        return Filter("sql", (parse_within(text, allowance, functions),))
    except ParseError as error:
        raise FilterError(path, str(error)) from error
