"""What a piece of an expression is compiled to, and the closures for each kind of piece.

A closure takes the attributes of an event and returns a value or an `EvaluationError`. The first error ends the
evaluation (the fail-fast mode of the specification, section 4.1): whoever gets one from an operand hands it on as it
is. So nothing is collected, and an event without errors costs no more than the comparisons themselves. Closures of
Booleans tell True, False and errors apart by identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import itemgetter
from typing import NamedTuple

from cloudevents_kit._values import INT_MAX, Value
from cloudevents_kit.cesql._budget import FREE, Costly, afford
from cloudevents_kit.cesql._casts import cast, to_boolean, to_integer, to_text
from cloudevents_kit.cesql._errors import EvaluationError
from cloudevents_kit.cesql._like import Matcher
from cloudevents_kit.cesql._operators import Operator, Outcome, no_cast, overflow, too_much

Attributes = Mapping[str, Value]
Run = Callable[[Attributes], Outcome]

#: Attributes that every event has, as String.
REQUIRED = frozenset({"id", "source", "specversion", "type"})


class Code(NamedTuple):
    """One piece of an expression, compiled."""

    run: Run
    kind: type | None
    """The type of its values, or None if it depends on the event."""
    constant: bool = False
    """Whether it has the same outcome for every event."""
    equals: tuple[str, str] | None = None
    """The required attribute and the text, if it tests whether they are the same."""


def constant(outcome: Outcome, kind: type | None = None) -> Code:
    """Return the code of a literal, or of an error that is always there."""
    return Code(lambda _: outcome, kind or outcome.__class__, constant=True)


def attribute(name: str, at: int) -> Code:
    """Return the code of an attribute's value."""
    if name in REQUIRED:
        return Code(itemgetter(name), str)
    absent = missing(name, at)
    return Code(lambda attributes: attributes.get(name, absent), None)


def folded(code: Code, *operands: Code) -> Code:
    """Return ``code``, or what comes out of it if that depends on no event, and costs little."""
    if all(operand.constant for operand in operands):
        with suppress(Costly):
            return constant(code.run({}), code.kind)
    return code


def exists(name: str) -> Code:
    """Return the code of EXISTS."""
    if name in REQUIRED:
        return constant(outcome=True)
    return Code(lambda attributes: name in attributes, bool)


def boolean(code: Code, at: int) -> Run:
    """Return a closure that casts to Boolean."""
    run = code.run
    if code.kind is bool:
        return run
    failed = no_cast(bool, at)

    def run_boolean(attributes: Attributes) -> Outcome:
        value = run(attributes)
        if value.__class__ is bool or value.__class__ is EvaluationError:
            return value
        flag = to_boolean(value)  # type: ignore[arg-type]
        return failed if flag is None else flag

    return run_boolean


def opposite(code: Code, at: int) -> Code:
    """Return the code of NOT."""
    run = boolean(code, at)

    def run_not(attributes: Attributes) -> Outcome:
        value = run(attributes)
        return value is False if value.__class__ is bool else value

    return Code(run_not, bool)


def negative(code: Code, at: int) -> Code:
    """Return the code of unary minus."""
    run, failed, too_large = code.run, no_cast(int, at), overflow(at)

    def run_minus(attributes: Attributes) -> Outcome:
        value = run(attributes)
        if isinstance(value, EvaluationError):
            return value
        number = to_integer(value)
        if number is None:
            return failed
        return -number if -number <= INT_MAX else too_large

    return Code(run_minus, int)


def missing(name: str, at: int) -> EvaluationError:
    """Return the error of an attribute that an event does not have."""
    return EvaluationError(kind="missingAttribute", message=f"the event has no {name[:40]}", position=at)


def equality(name: str, wanted: str, *, expected: bool) -> Code:
    """Return the code that compares a required attribute with a text."""
    if not expected:
        return Code(lambda attributes: attributes[name] != wanted, bool)
    return Code(lambda attributes: attributes[name] == wanted, bool, equals=(name, wanted))


def optional_equality(name: str, wanted: str, at: int, *, expected: bool) -> Code:
    """Return the code that compares any other attribute with a text."""
    absent = missing(name, at)

    def run_equality(attributes: Attributes) -> Outcome:
        value = attributes.get(name)
        if value.__class__ is str:
            return (value == wanted) is expected
        return absent if value is None else (to_text(value) == wanted) is expected

    return Code(run_equality, bool)


def comparison(code: Code, wanted: Value, at: int, *, expected: bool) -> Code:
    """Return the code that compares any value with a literal."""
    run, kind = code.run, wanted.__class__
    failed = no_cast(kind, at)

    def run_comparison(attributes: Attributes) -> Outcome:
        value = run(attributes)
        if value.__class__ is kind:
            return (value == wanted) is expected
        if isinstance(value, EvaluationError):
            return value
        same = cast(value, kind)
        return failed if same is None else (same == wanted) is expected

    return Code(run_comparison, bool)


def like(code: Code, matcher: Matcher, at: int, *, expected: bool) -> Code:
    """Return the code of LIKE and NOT LIKE."""
    run = code.run
    fits, weight = matcher
    if not weight:
        return _like_at_ends(code, fits, expected=expected)
    free = FREE // weight

    def run_like(attributes: Attributes) -> Outcome:
        value = run(attributes)
        if isinstance(value, str):
            if len(value) > free and not afford(attributes, len(value) * weight):
                return too_much(at)
            return fits(value) is expected
        return value if isinstance(value, EvaluationError) else fits(to_text(value)) is expected

    return Code(run_like, bool)


def _like_at_ends(code: Code, fits: Callable[[str], bool], *, expected: bool) -> Code:
    run = code.run

    def run_like(attributes: Attributes) -> Outcome:
        value = run(attributes)
        if isinstance(value, str):
            return fits(value) is expected
        return value if isinstance(value, EvaluationError) else fits(to_text(value)) is expected

    return Code(run_like, bool)


def within(code: Code, elements: list[Run], texts: frozenset[str] | None, at: int, *, expected: bool) -> Code:
    """Return the code of IN and NOT IN: elements are evaluated and cast one by one until one is the same.

    ``texts`` are the elements as String, if all are literals: then a String is looked up among them.
    """
    run = code.run

    def run_in(attributes: Attributes) -> Outcome:
        value = run(attributes)
        kind = value.__class__
        if kind is str and texts is not None:
            return (value in texts) is expected
        if isinstance(value, EvaluationError):
            return value
        for element in elements:
            other = element(attributes)
            if isinstance(other, EvaluationError):
                return other
            same = cast(other, kind)
            if same is None:
                return no_cast(kind, at)
            if same == value:
                return expected
        return not expected

    return Code(run_in, bool)


def pair(left: Run, right: Run, operate: Operator, at: int, kind: type) -> Code:
    """Return the code of one operator between two values."""

    def run_pair(attributes: Attributes) -> Outcome:
        one = left(attributes)
        if isinstance(one, EvaluationError):
            return one
        other = right(attributes)
        if isinstance(other, EvaluationError):
            return other
        return operate(one, other, at)

    return Code(run_pair, kind)


def run_of(first: Run, steps: list[tuple[Operator, Run, int]], kind: type) -> Code:
    """Return the code of many operators of one level, from left to right."""

    def run_steps(attributes: Attributes) -> Outcome:
        value = first(attributes)
        for operate, operand, at in steps:
            if isinstance(value, EvaluationError):
                return value
            other = operand(attributes)
            if isinstance(other, EvaluationError):
                return other
            value = operate(value, other, at)
        return value

    return Code(run_steps, kind)
