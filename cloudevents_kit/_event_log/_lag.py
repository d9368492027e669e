"""When a projection that may lag gets its events: conditions on how many wait, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cloudevents_kit._arguments import check_callable, check_count, check_positive


class Lag(NamedTuple):
    """How far a projection is behind."""

    waiting: int
    """Events that it has not got."""
    oldest: float
    """Seconds since the first of them was appended; 0.0 if there is none."""


#: Tells whether what waits is to be handed over now.
Condition = Callable[[Lag], bool]


def count(least: int) -> Condition:
    """Return the condition that ``least`` events wait."""
    check_count("least", least)
    return lambda lag: lag.waiting >= least


def age(seconds: float) -> Condition:
    """Return the condition that an event has waited for ``seconds``, be it the only one."""
    check_positive("seconds", seconds)
    return lambda lag: lag.waiting > 0 and lag.oldest >= seconds


def any_of(*conditions: Condition) -> Condition:
    """Return the condition that one of ``conditions`` holds, whichever is first."""
    _check(conditions)
    return lambda lag: any(condition(lag) for condition in conditions)


def all_of(*conditions: Condition) -> Condition:
    """Return the condition that all ``conditions`` hold."""
    _check(conditions)
    return lambda lag: all(condition(lag) for condition in conditions)


def _check(conditions: tuple[Condition, ...]) -> None:
    if not conditions:
        raise ValueError("conditions: must be at least one")
    for condition in conditions:
        check_callable("conditions", condition)
