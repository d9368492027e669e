"""What a store of windows is given, and what it tells.

To a store, the states of a key are a list of JSON values, and a function makes the next of those before: one that
keeps them elsewhere reads, changes and writes them only if nobody else did meanwhile. Knows nothing of reducers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

#: Makes the next states of a key of an event's values and the states before, which are None for a new key. Leaves both
#: as they are if it raises.
Fold = Callable[[list[Any], list[Any] | None], list[Any]]
#: What became of an event in a store. ``unremembered`` is counted, but would be again.
Added = Literal["counted", "unremembered", "repeated", "late", "overflow"]


@dataclass(slots=True)
class Tally:
    """The states of one key in one window."""

    start: int
    key: str
    states: list[Any]
    closed: bool
    complete: bool
    """False if events were counted that would be counted again."""


@dataclass(slots=True)
class WindowInfo:
    """One window as a whole."""

    start: int
    closed: bool
    keys: int
    events: int
    """How many were counted."""
    overflow: int
    """How many came that were not, for there were too many keys."""


HandOut = Callable[[Tally], Awaitable[None]]
