"""What is made of the events of a window: counts, sums, smallest and largest values, distinct ones, folds of your own.

A reducer is a recipe without a state: states are plain JSON values, so that a store can keep them anywhere. Sums are
exact: the order in which workers come does not change the last digit. Knows nothing of windows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from math import isfinite
from typing import Any

from cloudevents_kit._arguments import check_count
from cloudevents_kit._errors import EventError
from cloudevents_kit._event import Event
from cloudevents_kit._paths import MISSING, read_path
from cloudevents_kit.stages._calls import check_plain
from cloudevents_kit.stages._digest import short
from cloudevents_kit.stages._stage import name_of_function

#: Where a value comes from: a path such as ``data.order.total``, the name of an attribute, or a function.
Selector = str | Callable[[Event], Any]


def reader_of(argument: str, selector: Selector) -> Callable[[Event], Any]:
    """Return the function that reads ``selector``. Raises TypeError or ValueError that names the ``argument``."""
    if isinstance(selector, str):
        return read_path(selector)
    check_plain(argument, selector)
    return selector


def _itself(event: Event) -> Any:
    return event


def text_of(value: object) -> str:
    """Return the one text that stands for ``value`` as a key, whatever mode or type it came in.

    Text is itself, 7 and 7.0 are ``7``, True is ``true``, nothing is the empty text, anything else is its JSON.
    """
    if isinstance(value, str):
        return value
    if value is None or value is MISSING:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class Reducer:
    """One value of each key and window. Made by `count`, `sum_of`, `fold` and the like."""

    kind = "reducer"

    def __init__(self, of: Selector | None = None) -> None:
        """Read values by ``of``, or take the event itself."""
        self.of = of
        self._read = _itself if of is None else reader_of("of", of)
        self._name = of if isinstance(of, str) else ""

    def take(self, event: Event) -> Any:
        """Return the value to reduce, or None for an event that has none. Raises EventError if it does not fit."""
        value = self._read(event)
        return None if value is MISSING else value

    def start(self) -> Any:
        """Return the state before the first value."""
        return None

    def step(self, state: Any, value: Any, /) -> Any:
        """Return the state after one more value."""
        raise NotImplementedError

    def result(self, state: Any, /) -> Any:
        """Return the value to show."""
        return state

    def is_exact(self, state: Any) -> bool:  # noqa: ARG002
        """Tell whether the result holds for all values, or only for as many as the limits allow."""
        return True

    def __repr__(self) -> str:
        """Name what is reduced, and how."""
        of = self.of if isinstance(self.of, str) else name_of_function(self.of, "...") if self.of else ""
        return f"{self.kind}({of})"


class Count(Reducer):
    """Counts the events, which every window does anyway."""

    kind = "count"

    def take(self, event: Event) -> Any:  # noqa: ARG002
        """Take every event."""
        return True

    def start(self) -> int:
        """Return 0."""
        return 0

    def step(self, state: int, value: object, /) -> int:  # noqa: ARG002
        """Return one more."""
        return state + 1


def count() -> Reducer:
    """Count the events."""
    return Count()


#: Numbers that are larger, which JSON may hold, would make a sum that few can read.
_TOO_LARGE = 2**1024


class _Numbers(Reducer):
    """Takes finite numbers, ints up to where floats end; an integer that came as the text of an attribute is one."""

    def take(self, event: Event) -> Any:
        value = self._read(event)
        kind = type(value)
        if -_TOO_LARGE < value < _TOO_LARGE if kind is int else kind is float and isfinite(value):
            return value
        if value is None or value is MISSING:
            return None
        if kind is str and self._name in event:
            return event.get_int(self._name)
        error = EventError(self._name or "data", f"is no finite number, which {self!r} needs", value_type=kind)
        error.key = event.key
        raise error


#: An exact sum: an int while all values were ints, else [n, k] for n / 2**k. Every float is such a fraction.
_Sum = int | list[int]


def _added(total: _Sum, value: float, /) -> _Sum:
    if type(total) is int and type(value) is int:
        return total + value
    number, shift = (total, 0) if isinstance(total, int) else total
    top, bottom = value.as_integer_ratio()
    bits = bottom.bit_length() - 1
    if bits <= shift:
        return [number + (top << (shift - bits)), shift]
    return [(number << (bits - shift)) + top, bits]


def _quotient(total: _Sum, by: int) -> float:
    number, shift = (total, 0) if isinstance(total, int) else total
    try:
        return number / (by << shift)  # Python rounds the quotient of two ints correctly
    except OverflowError:
        return number // (by << shift)


class _SumOf(_Numbers):
    kind = "sum_of"

    step = staticmethod(_added)

    def start(self) -> _Sum:
        return 0

    def result(self, state: _Sum, /) -> float:
        return state if isinstance(state, int) else _quotient(state, 1)


def sum_of(of: Selector) -> Reducer:
    """Add the numbers up: exactly, rounded once in the end if there were floats. Nothing adds up to 0."""
    return _SumOf(of)


class _AvgOf(_Numbers):
    kind = "avg_of"

    def start(self) -> list[Any]:
        return [0, 0]

    def step(self, state: list[Any], value: float, /) -> list[Any]:
        return [_added(state[0], value), state[1] + 1]

    def result(self, state: list[Any], /) -> float | None:
        return _quotient(state[0], state[1]) if state[1] else None


def avg_of(of: Selector) -> Reducer:
    """Return the mean of the numbers, None without any; events that have no such value do not count."""
    return _AvgOf(of)


class _MinOf(_Numbers):
    kind = "min_of"

    def step(self, state: float | None, value: float, /) -> float:
        return value if state is None or value < state else state


def min_of(of: Selector) -> Reducer:
    """Return the smallest number, None without any."""
    return _MinOf(of)


class _MaxOf(_Numbers):
    kind = "max_of"

    def step(self, state: float | None, value: float, /) -> float:
        return value if state is None or value > state else state


def max_of(of: Selector) -> Reducer:
    """Return the largest number, None without any."""
    return _MaxOf(of)


class Distinct(Reducer):
    """Keeps the values, as text that also tells their type, up to a limit. Its state is changed in place."""

    kind = "distinct"

    def __init__(self, of: Selector, limit: int) -> None:
        """Keep at most ``limit`` values."""
        super().__init__(of)
        self._limit = check_count("limit", limit)

    def take(self, event: Event) -> Any:
        """Return the text that is kept."""
        value = self._read(event)
        if type(value) is str:
            return '"' + short(value)
        if value is None or value is MISSING:
            return None
        if isinstance(value, str) or self._name in event:  # an attribute is text in one mode and an int in another
            return '"' + short(text_of(value))
        return short(text_of(value))

    def start(self) -> list[Any]:
        """Return no values, none of them left out."""
        return [{}, False]

    def step(self, state: list[Any], value: str, /) -> list[Any]:
        """Keep the value if there is room; cannot fail."""
        kept = state[0]
        if len(kept) < self._limit:
            kept[value] = None
        elif value not in kept:
            state[1] = True
        return state

    def result(self, state: list[Any], /) -> int:
        """Return how many values were kept."""
        return len(state[0])

    def is_exact(self, state: list[Any]) -> bool:
        """Tell whether all were."""
        return not state[1]


def distinct(of: Selector, *, limit: int = 10_000) -> Reducer:
    """Count the different values. Beyond ``limit`` for a key and window the result stays there, and is marked so."""
    return Distinct(of, limit)


class _Fold(Reducer):
    kind = "fold"

    def __init__(
        self, initial: Any, step: Callable[[Any, Any], Any], of: Selector | None, result: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(of)
        check_plain("step", step)
        if result is not None:
            check_plain("result", result)
        self._initial, self._result = initial, result
        self.step = step  # type: ignore[method-assign]

    def take(self, event: Event) -> Any:
        value = super().take(event)
        return copy.deepcopy(value) if type(value) in {dict, list} else value  # what was read is shared

    def start(self) -> Any:
        return copy.deepcopy(self._initial)

    def result(self, state: Any, /) -> Any:
        shown = copy.deepcopy(state)  # which goes on, whatever is done with it
        return shown if self._result is None else self._result(shown)


def fold(
    initial: Any,
    step: Callable[[Any, Any], Any],
    *,
    of: Selector | None = None,
    result: Callable[[Any], Any] | None = None,
) -> Reducer:
    """Make a reducer of functions: ``step(state, value)`` returns the next state, ``result(state)`` what is shown.

    The first state is a copy of ``initial``. The value is what ``of`` reads, and events without it are passed over;
    without ``of`` it is the event. ``step`` returns a new state and leaves the given one alone, so that nothing is
    half counted if it fails. Stores other than the memory need states that are JSON.
    """
    return _Fold(initial, step, of, result)
