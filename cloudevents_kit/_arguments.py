"""Checks of what constructors are given: each error names the argument, the rule, what came instead, and a way out.

A wrong type is a TypeError, a wrong value a ValueError. Knows nothing of what the arguments are for.
"""

from __future__ import annotations

from datetime import timedelta
from math import inf


def check_positive(name: str, value: object) -> None:
    """Take a finite number above 0."""
    if not 0 < _number(name, value) < inf:
        raise ValueError(f"{name}: must be above 0 and finite, not {value}")


def check_not_negative(name: str, value: object) -> None:
    """Take a finite number, 0 included."""
    if not 0 <= _number(name, value) < inf:
        raise ValueError(f"{name}: must be finite and not negative, not {value}")


def _number(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    hint = "call its total_seconds()" if isinstance(value, timedelta) else "give an int or a float"
    raise TypeError(f"{name}: must be a number, not {type(value).__name__} ({hint})")


def check_count(name: str, value: object, *, least: int = 1) -> int:
    """Return ``value`` if it is a whole number, ``least`` or more."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: must be a whole number, not {type(value).__name__} (give an int)")
    if value < least:
        raise ValueError(f"{name}: must be {least} or more, not {value}")
    return value


def check_name(name: str, value: object, *, longest: int) -> str:
    """Return ``value`` if it is text that can be shown, and kept by every database."""
    check_kind(name, value, str, "a str")
    text = str(value)
    if not 0 < len(text) <= longest or not text.isprintable():
        raise ValueError(f"{name}: must be 1 to {longest} printable characters")
    return text


def check_choice(name: str, value: object, choices: tuple[str, str]) -> None:
    """Take one of two words."""
    if value not in choices:
        raise ValueError(f"{name}: must be {choices[0]!r} or {choices[1]!r}, not {value!r}")


def check_kind(name: str, value: object, kind: type | tuple[type, ...], wanted: str, hint: str = "") -> None:
    """Take an instance of ``kind``; ``wanted`` says what that is, ``hint`` how to come by one."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: must be {wanted}, not {type(value).__name__}" + (f" ({hint})" if hint else ""))


def check_flag(name: str, value: object) -> None:
    """Take True or False, so that the text "false" does not count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: must be True or False, not {type(value).__name__}")


def check_callable(name: str, value: object) -> None:
    """Take a function, or an object that can be called like one; not a class."""
    _refuse_class(name, value)
    if not callable(value):
        raise TypeError(f"{name}: must be callable, not {type(value).__name__}")


def _refuse_class(name: str, value: object) -> None:
    if isinstance(value, type):
        raise TypeError(f"{name}: must be an object, not the class {value.__name__} (did you forget the parentheses?)")


def check_methods(name: str, value: object, wanted: str, *methods: str) -> None:
    """Take an object, not a class, that has all of ``methods``; ``wanted`` says what that is."""
    _refuse_class(name, value)
    if not all(callable(getattr(value, method, None)) for method in methods):
        raise TypeError(f"{name}: must be {wanted}, not {type(value).__name__} (it needs {', '.join(methods)})")


def check_path(value: object, name: str = "path") -> None:
    """Take the path of a URL, on which a server listens."""
    check_kind(name, value, str, 'a str such as "/events"')
    if not str(value).startswith("/"):
        raise ValueError(f"{name}: must begin with /, not {value!r}")
    if "?" in str(value) or "#" in str(value):
        raise ValueError(f"{name}: must be a path alone, not {value!r} (requests match whatever their query is)")
