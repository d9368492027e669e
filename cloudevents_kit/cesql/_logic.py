"""The closures of AND, OR and XOR. They take Booleans and errors, and tell them apart by identity."""

from __future__ import annotations

from cloudevents_kit.cesql._code import Attributes, Code, Run
from cloudevents_kit.cesql._operators import Outcome


def every(codes: list[Code], runs: list[Run]) -> Run:
    """Return the closure of ``a AND b AND c``; ``runs`` are the ``codes`` as Booleans."""
    if len(runs) > 2:
        return _after(codes[0], runs[0], _every(runs[1:])) if codes[0].equals else _every(runs)
    return _after(codes[0], *runs)


def _after(code: Code, left: Run, right: Run) -> Run:
    if code.equals is not None:  # "type = 'x' AND ...": the comparison is made here, which saves a call
        name, wanted = code.equals
        return lambda attributes: right(attributes) if attributes[name] == wanted else False

    def both(attributes: Attributes) -> Outcome:
        value = left(attributes)
        return right(attributes) if value is True else value

    return both


def _every(runs: list[Run]) -> Run:
    def all_of(attributes: Attributes) -> Outcome:
        for run in runs:
            value = run(attributes)
            if value is not True:
                return value
        return True

    return all_of


def some(runs: list[Run]) -> Run:
    """Return the closure of ``a OR b OR c``."""
    if len(runs) == 2:
        left, right = runs

        def either(attributes: Attributes) -> Outcome:
            value = left(attributes)
            return right(attributes) if value is False else value

        return either

    def any_of(attributes: Attributes) -> Outcome:
        for run in runs:
            value = run(attributes)
            if value is not False:
                return value
        return False

    return any_of


def mixed(first: Run, steps: list[tuple[str, Run]]) -> Run:
    """Return the closure of any run of AND, OR and XOR, from left to right; an error on the left ends it."""

    def in_order(attributes: Attributes) -> Outcome:
        value = first(attributes)
        for operator, run in steps:
            if value is True:
                if operator == "AND":
                    value = run(attributes)
                elif operator == "XOR":
                    value = _unless(run(attributes))
            elif value is False:
                if operator != "AND":
                    value = run(attributes)
            else:
                return value
        return value

    return in_order


def _unless(value: Outcome) -> Outcome:
    return value is False if value.__class__ is bool else value
