"""Reads one value of an event by its path: an attribute or extension, or a place in the data.

    type    partitionkey    data    data.order.total    data.items[0].sku    data["name.with.dots"]

A path is taken apart once; reading it decodes the data at most once per event, whoever else reads from it.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable
from typing import Any, Final

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._errors import DataError
from cloudevents_kit._event import _UNSET, Event
from cloudevents_kit._values import check_name


class _Missing:
    """Type of `MISSING`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


#: What stands at a path that leads nowhere.
MISSING: Final[Any] = _Missing()

_MOST_STEPS = 32
_CHANGEABLE = frozenset((dict, list))
_index = re.compile("0|[1-9][0-9]{0,8}").fullmatch
_step = re.compile(r'\.([^.\[\]"]+)|\[(\d{1,9})\]|\["((?:[^"\\]|\\.)*)"\]')


def read_path(path: str) -> Callable[[Event], Any]:
    """Return the function that reads ``path`` from an event: the value, shared and not to be changed, or `MISSING`.

    Raises TypeError or ValueError for a path that is none.
    """
    check_kind("path", path, str, 'a str such as "data.order.total"')
    name = re.split(r"[.\[]", path, maxsplit=1)[0]
    steps = _steps(path, len(name))
    if name == "data":
        return _data_reader(steps)
    check_name(name)
    if steps:
        raise ValueError(f"path: {path!r} leads into the attribute {name!r}, which is no object (data.{path}?)")
    return lambda event: event._attributes.get(name, MISSING)


def _steps(path: str, at: int) -> tuple[str | int, ...]:
    steps: list[str | int] = []
    while at < len(path):
        found = _step.match(path, at)
        if found is None:
            raise ValueError(f'path: {path!r} cannot be read from character {at + 1} on (write data.items[0]["a.b"])')
        member, index, quoted = found.groups()
        steps.append(int(index) if index else member or re.sub(r"\\(.)", r"\1", quoted))
        at = found.end()
    if len(steps) > _MOST_STEPS:
        raise ValueError(f"path: has more than {_MOST_STEPS} steps")
    return tuple(steps)


def _data_reader(steps: tuple[str | int, ...]) -> Callable[[Event], Any]:
    def read(event: Event) -> Any:
        if not event._form:
            return MISSING
        value = event._peek()
        for step in steps:
            if type(value) is dict:
                value = value.get(step, MISSING) if type(step) is str else MISSING
            elif type(value) is list and (at := _index_of(step)) < len(value):
                value = value[at]
            else:
                return MISSING
        return value

    match steps:
        case (str(name),):
            return _quick_reader(read, name)
        case (str(outer), str(inner)):
            return _quick_reader(read, outer, inner)
        case _:
            return read


def _quick_reader(read: Callable[[Event], Any], outer: str, inner: str | None = None) -> Callable[[Event], Any]:
    """Read objects in objects without asking first whether they are any; whatever else it is, ``read``."""

    def reader(event: Event) -> Any:
        seen = event._seen
        if seen is _UNSET:
            seen = event._peek()
        try:
            return seen[outer] if inner is None else seen[outer][inner]
        except KeyError:  # only an object raises it
            return MISSING
        except TypeError:
            return read(event)

    return reader


def _index_of(step: str | int) -> int:
    """Return the index of a step into a list, also of a name such as in ``data.items.0``; one beyond any if none."""
    if type(step) is int:
        return step
    return int(step) if _index(str(step)) else sys.maxsize


def field(path: str, default: Any = None) -> Callable[[Event], Any]:
    """Return the function that reads ``path`` from an event, or gives ``default`` where it leads nowhere.

    For predicates, keys and routes: ``route(field("data.action"), {...})``. Raises TypeError or ValueError for a path
    that is none; the function raises DataError for data that cannot be read, or is nested too deeply to be copied.
    """
    read = read_path(path)

    def reader(event: Event) -> Any:
        value = read(event)
        if value is MISSING:
            return default
        return _copied(value, event) if type(value) in _CHANGEABLE else value  # it is yours to change

    reader.__name__ = path
    return reader


def _copied(value: Any, event: Event) -> Any:
    try:
        return copy.deepcopy(value)
    except RecursionError:
        error = DataError("is nested too deeply")
        error.key = event.key
        raise error from None
