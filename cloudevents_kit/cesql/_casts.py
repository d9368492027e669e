"""The three types of CloudEvents SQL, String, Integer and Boolean, and the casts between them (its section 3.7).

A cast that fails gives None; who asked for it knows the place in the text, and makes an error of it.
"""

from __future__ import annotations

import re

from cloudevents_kit._values import INT_MAX, INT_MIN, Value

_integer = re.compile(r"([+-]?)(?=[0-9])0*+([0-9]{0,10})").fullmatch
#: Longer texts are no Integer: nobody writes so many zeros before one, and to look at them all would cost too much.
_LONGEST_INTEGER = 1000
_BOOLEANS = {"true": True, "false": False}

#: What stands in for a value that could not be had.
ZEROS: dict[type, Value] = {str: "", int: 0, bool: False}
#: What the types are called in messages.
NAMES: dict[type, str] = {str: "String", int: "Integer", bool: "Boolean"}


def to_text(value: Value) -> str:
    """Return a value as String; that never fails."""
    if value.__class__ is bool:
        return "true" if value else "false"
    return str(value)


def to_integer(value: Value) -> int | None:
    """Return a value as Integer of 32 bits; only ASCII digits and one sign are read."""
    if isinstance(value, int):
        return int(value)
    if len(value) < 10 and value.isdigit() and value.isascii():  # nearly always
        return int(value)
    found = _integer(value) if len(value) <= _LONGEST_INTEGER else None
    number = int(found[1] + (found[2] or "0")) if found else INT_MAX + 1
    return number if INT_MIN <= number <= INT_MAX else None


def to_boolean(value: Value) -> bool | None:
    """Return a value as Boolean."""
    if isinstance(value, int):
        return value != 0
    return _BOOLEANS.get(value.lower()) if value.isascii() else None


def cast(value: Value, kind: type) -> Value | None:
    """Return ``value`` as str, int or bool; ``object`` takes it as it is."""
    if value.__class__ is kind or kind is object:
        return value
    if kind is str:
        return to_text(value)
    return to_integer(value) if kind is int else to_boolean(value)
