"""The functions that an expression may call: how yours are registered, and how one is found by name and arity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction

from cloudevents_kit._arguments import check_callable, check_kind
from cloudevents_kit._values import INT_MAX, INT_MIN, Value
from cloudevents_kit.cesql._builtin import BUILT_IN, Failed, Function
from cloudevents_kit.cesql._casts import NAMES, ZEROS
from cloudevents_kit.cesql._parser import is_function_name


class Functions:
    """Functions of your own, beside the built-in ones; give it to `parse`.

    A name may stand for several functions of different arity. An expression keeps what it was parsed with.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, tuple[Function, ...]] = {}

    def register(
        self,
        name: str,
        function: Callable[..., str | int | bool],
        *,
        arguments: Sequence[type] = (),
        rest: type | None = None,
        returns: type[str | int | bool],
    ) -> None:
        """Let expressions call ``function``, which is given what its ``arguments`` are cast to.

        It should depend on its arguments alone. If it raises an exception, or returns something else than it
        promises, the expression has an error of kind functionEvaluation.

        Args:
            name: letters and underscores; its case does not matter.
            function: a plain function.
            arguments: str, int or bool for each argument, or object to take it as it is.
            rest: the type of any number of further arguments; by default there are none. The ``arguments`` must
                then be more than those of any other function of that name.
            returns: str, int or bool.

        Raises:
            ValueError: the name is none, or it could not be told which of two functions is meant.
            TypeError: something is of the wrong type.
        """
        known = _named(name)
        check_callable("function", function)
        if iscoroutinefunction(function):
            raise TypeError("function: must be a plain function, not async")
        types = tuple(_typed("arguments", one, object) for one in arguments)
        further = None if rest is None else _typed("rest", rest, object)
        kind = _typed("returns", returns)
        others = self._overloads(known)
        _check_distinct(known, len(types), further is not None, others)
        new = Function(types, further, kind, _Guarded(known, function, kind))
        self._known[known] = (*self._known.get(known, ()), new)

    def find(self, name: str, count: int) -> Function | None:
        """Return the function of that name, in capitals, that takes ``count`` arguments, or None."""
        for function in self._overloads(name):
            fixed = len(function.arguments)
            if fixed == count or (function.rest is not None and fixed < count):
                return function
        return None

    def _overloads(self, name: str) -> tuple[Function, ...]:
        return (*BUILT_IN.get(name, ()), *self._known.get(name, ()))


def _named(name: str) -> str:
    check_kind("name", name, str, "a str")
    if not is_function_name(name.upper()):
        raise ValueError(f"name: must be letters and underscores and no keyword, not {name!r}")
    return name.upper()


def _typed(argument: str, kind: object, *more: type) -> type:
    if isinstance(kind, type) and (kind in NAMES or kind in more):
        return kind
    wanted = ", ".join(one.__name__ for one in (*NAMES, *more))
    raise TypeError(f"{argument}: must be one of {wanted}, not {kind!r}")


def _check_distinct(name: str, fixed: int, variadic: bool, others: tuple[Function, ...]) -> None:  # noqa: FBT001
    for other in others:
        arity = len(other.arguments)
        if other.rest is not None and (variadic or fixed >= arity):
            raise ValueError(f"name: {name} takes any number of arguments from {arity} on already")
        if fixed == arity:
            raise ValueError(f"name: {name} with {fixed} arguments exists already")
        if variadic and fixed < arity:
            raise ValueError(f"arguments: {name} exists with {arity}; a function with more of them needs {arity + 1}")


@dataclass(frozen=True, slots=True)
class _Guarded:
    """Calls a function, and makes sure that it returns a ``kind``, whatever it does."""

    name: str
    function: Callable[..., Value]
    kind: type

    def __call__(self, *values: Value) -> Value | Failed:
        try:
            result = self.function(*values)
        except Exception as error:  # noqa: BLE001 - an evaluation ends with a value, always
            return self._failed(f"raised {type(error).__name__}")
        given = type(result)
        if given is not self.kind:
            return self._failed(f"returned {given.__name__}, not {self.kind.__name__}")
        if given is int and not INT_MIN <= int(result) <= INT_MAX:
            return self._failed("returned an Integer over 32 bits")
        return result

    def _failed(self, how: str) -> Failed:
        return Failed(ZEROS[self.kind], "functionEvaluation", f"{self.name} {how}")
