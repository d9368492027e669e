"""What the binary operators do with two values; an error takes the place of a result, never an exception."""

from __future__ import annotations

import operator
from collections.abc import Callable

from cloudevents_kit._values import INT_MAX, INT_MIN, Value
from cloudevents_kit.cesql._casts import NAMES, cast, to_integer
from cloudevents_kit.cesql._errors import EvaluationError

#: A value, or why there is none.
Outcome = Value | EvaluationError
#: An operator: its left and right value, and its place in the text.
Operator = Callable[[Value, Value, int], Outcome]


def no_cast(kind: type, at: int) -> EvaluationError:
    """Return the error of a value that cannot be cast to ``kind``."""
    size = " of 32 bits" if kind is int else ""
    return EvaluationError(kind="cast", message=f"a String is no {NAMES[kind]}{size}", position=at)


def too_much(at: int) -> EvaluationError:
    """Return the error of an expression that handles more text for an event than is good."""
    return EvaluationError(kind="functionEvaluation", message="too much text to join, change or search", position=at)


def overflow(at: int) -> EvaluationError:
    """Return the error of a result that does not fit."""
    return EvaluationError(kind="math", message="the result does not fit 32 bits", position=at)


def _arithmetic(compute: Callable[[int, int], int], *, divides: bool = False) -> Operator:
    def operate(left: Value, right: Value, at: int) -> Outcome:
        one, other = to_integer(left), to_integer(right)
        if one is None or other is None:
            return no_cast(int, at)
        if divides and other == 0:
            return EvaluationError(kind="math", message="division by zero", position=at)
        result = compute(one, other)
        return result if INT_MIN <= result <= INT_MAX else overflow(at)

    return operate


def _order(compare: Callable[[int, int], bool]) -> Operator:
    def operate(left: Value, right: Value, at: int) -> Outcome:
        one = left if isinstance(left, int) else to_integer(left)
        other = right if isinstance(right, int) else to_integer(right)
        if one is None or other is None:
            return no_cast(int, at)
        return compare(one, other)

    return operate


def _equality(*, expected: bool) -> Operator:
    def operate(left: Value, right: Value, at: int) -> Outcome:
        kind = right.__class__
        same = cast(left, kind)
        if same is None:
            return no_cast(kind, at)
        return (same == right) is expected

    return operate


def _quotient(one: int, other: int) -> int:
    """Divide, cutting towards 0, where Python rounds down."""
    result = abs(one) // abs(other)
    return result if (one < 0) is (other < 0) else -result


def _remainder(one: int, other: int) -> int:
    """Return the remainder that goes with `_quotient`: it has the sign of the dividend."""
    result = abs(one) % abs(other)
    return -result if one < 0 else result


OPERATORS: dict[str, Operator] = {
    "=": _equality(expected=True),
    "!=": _equality(expected=False),
    "<>": _equality(expected=False),
    "<": _order(operator.lt),
    "<=": _order(operator.le),
    ">": _order(operator.gt),
    ">=": _order(operator.ge),
    "+": _arithmetic(operator.add),
    "-": _arithmetic(operator.sub),
    "*": _arithmetic(operator.mul),
    "/": _arithmetic(_quotient, divides=True),
    "%": _arithmetic(_remainder, divides=True),
}
