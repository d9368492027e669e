"""An expression that was parsed: its text, and what it tells about an event."""

from __future__ import annotations

from typing import Any

from cloudevents_kit._arguments import check_count, check_kind
from cloudevents_kit._event import Event
from cloudevents_kit._values import Value
from cloudevents_kit.cesql._budget import MAX_LENGTH, Allowance, Costly, Counted
from cloudevents_kit.cesql._compiler import Both, compiled
from cloudevents_kit.cesql._errors import EvaluationError, ParseError
from cloudevents_kit.cesql._functions import Functions
from cloudevents_kit.cesql._parser import tree_of

_BUILT_IN = Functions()


class Expression:
    """An expression of CloudEvents SQL, from `parse`: immutable, and equal to others of the same text and functions."""

    __slots__ = ("_functions", "_run", "_text", "_zero")

    def __init__(self, text: str, functions: Functions | None, allowance: Allowance | None = None) -> None:
        self._text = text
        self._functions = functions
        allowance = allowance or Allowance()
        self._run, self._zero = compiled(tree_of(text, allowance), (functions or _BUILT_IN).find, allowance)

    @property
    def text(self) -> str:
        """What was parsed, as it was written."""
        return self._text

    def evaluate(self, event: Event) -> tuple[Value, tuple[EvaluationError, ...]]:
        """Return the value for ``event`` and its errors: none, or the first one, which ends the evaluation.

        With an error the value is the one that the specification asks for: ``False``, ``0`` or ``""`` by the type
        of the expression, or what a function has for such a case.
        """
        if type(event) is not Event:
            event = Event.of(event)
        try:
            outcome = self._run(event._attributes)
        except Costly:
            outcome = self._run(Counted(event._attributes))
        if isinstance(outcome, EvaluationError):
            return self._zero, (outcome,)
        if isinstance(outcome, Both):
            return outcome.value, (outcome.error,)
        return outcome, ()

    def matches(self, event: Event) -> bool:
        """Tell whether the expression, as a filter, lets ``event`` pass: it is true, and nothing went wrong."""
        if type(event) is not Event:
            event = Event.of(event)
        try:
            return self._run(event._attributes) is True
        except Costly:
            return self._run(Counted(event._attributes)) is True

    def __eq__(self, other: object) -> bool:
        """Compare text and functions."""
        if not isinstance(other, Expression):
            return NotImplemented
        return self._text == other._text and self._functions is other._functions

    def __hash__(self) -> int:
        """Hash by the text."""
        return hash(self._text)

    def __repr__(self) -> str:
        """Show how it begins."""
        return f"Expression({self._text if len(self._text) <= 60 else self._text[:60] + '…'!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as text; it is compiled again where it arrives."""
        return Expression, (self._text, self._functions)


def parse(text: str, *, functions: Functions | None = None, max_length: int = MAX_LENGTH) -> Expression:
    """Return the expression that ``text`` says.

    Args:
        text: CloudEvents SQL.
        functions: functions of your own, beside the built-in ones.
        max_length: refuse a longer text, in characters.

    Raises:
        ParseError: it is no expression, or a larger one than is good; the message shows where.
    """
    check_count("max_length", max_length)
    return parse_within(text, Allowance(), functions, max_length)


def parse_within(
    text: str, allowance: Allowance, functions: Functions | None, max_length: int = MAX_LENGTH
) -> Expression:
    """Do what `parse` does, with what is left of ``allowance``."""
    check_kind("text", text, str, "a str")
    if functions is not None:
        check_kind("functions", functions, Functions, "Functions")
    if len(text) > max_length:
        raise ParseError(f"longer than {max_length} characters", text, max_length)
    return Expression(text, functions, allowance)
