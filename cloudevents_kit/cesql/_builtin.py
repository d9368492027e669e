"""The functions of CloudEvents SQL 1.0 (its section 3.5), and what any function looks like from inside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from cloudevents_kit._values import INT_MAX, INT_MIN, Value
from cloudevents_kit.cesql._budget import MAX_COST
from cloudevents_kit.cesql._casts import to_boolean, to_integer, to_text
from cloudevents_kit.cesql._errors import Kind

#: Unicode's White_Space; `str.strip` would also take U+001C to U+001F.
_WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"


class Failed(NamedTuple):
    """What a function returns that found an error: a value all the same, as the specification wants it."""

    value: Value
    kind: Kind
    message: str


class Function(NamedTuple):
    """One function of a certain arity."""

    arguments: tuple[type, ...]
    """The types that the arguments are cast to: str, int, bool, or object for as they are."""
    rest: type | None
    """The type of any number of further arguments, or None if there are none."""
    returns: type
    run: Callable[..., Value | Failed]
    built_in: bool = False
    """Whether it may be run once and for all, if its arguments are literals."""


def _left(text: str, count: int) -> Value | Failed:
    if count < 0:
        return Failed(text, "functionEvaluation", "LEFT takes no negative length")
    return text[:count]


def _right(text: str, count: int) -> Value | Failed:
    if count < 0:
        return Failed(text, "functionEvaluation", "RIGHT takes no negative length")
    return text[max(len(text) - count, 0) :]


def _substring(text: str, position: int, length: int = INT_MAX) -> Value | Failed:
    if length < 0:
        return Failed("", "functionEvaluation", "SUBSTRING takes no negative length")
    if abs(position) > len(text):
        return Failed("", "functionEvaluation", "the position of SUBSTRING lies outside the text")
    if position == 0:
        return ""
    start = position - 1 if position > 0 else len(text) + position
    return text[start : start + length]


def _join(delimiter: str, *texts: str) -> Value | Failed:
    if len(delimiter) * len(texts) > MAX_COST:  # so that a short expression cannot fill the memory
        return Failed("", "functionEvaluation", f"the text is longer than {MAX_COST} characters")
    return delimiter.join(texts)


def _abs(number: int) -> Value | Failed:
    if number == INT_MIN:
        return Failed(INT_MAX, "math", "ABS overflows 32 bits")
    return abs(number)


def _int(value: Value) -> Value | Failed:
    number = to_integer(value)
    return Failed(0, "cast", "the String is no Integer of 32 bits") if number is None else number


def _bool(value: Value) -> Value | Failed:
    flag = to_boolean(value)
    return Failed(value=False, kind="cast", message="the String is no Boolean") if flag is None else flag


def _built_in(run: Callable[..., Any], returns: type, *arguments: type, rest: type | None = None) -> Function:
    return Function(arguments, rest, returns, run, built_in=True)


BUILT_IN: dict[str, tuple[Function, ...]] = {
    "LENGTH": (_built_in(len, int, str),),
    "CONCAT": (_built_in(lambda *texts: "".join(texts), str, rest=str),),
    "CONCAT_WS": (_built_in(_join, str, str, rest=str),),
    "LOWER": (_built_in(str.lower, str, str),),
    "UPPER": (_built_in(str.upper, str, str),),
    "TRIM": (_built_in(lambda text: text.strip(_WHITE_SPACE), str, str),),
    "LEFT": (_built_in(_left, str, str, int),),
    "RIGHT": (_built_in(_right, str, str, int),),
    "SUBSTRING": (_built_in(_substring, str, str, int), _built_in(_substring, str, str, int, int)),
    "ABS": (_built_in(_abs, int, int),),
    "INT": (_built_in(_int, int, object),),
    "BOOL": (_built_in(_bool, bool, object),),
    "STRING": (_built_in(to_text, str, object),),
}
