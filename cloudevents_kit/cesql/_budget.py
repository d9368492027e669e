"""What an expression may cost: bounds for its text, and for the text that it makes and searches for one event.

A unit is about what one character costs that is changed to capitals, some 10 ns. Most expressions for most events
handle so little text that nobody counts: whatever would be long finds out there, raises `Costly`, and the whole is
evaluated again with a count. Nothing is shared by two evaluations, so any number may run at once.
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudevents_kit._values import Value

#: Characters that an expression may have, unless `parse` is told otherwise.
MAX_LENGTH = 65_536
#: More are no filter but an attack: this many are parsed in some hundredths of a second.
MAX_TOKENS = 8192
#: Units that all text costs together which is joined, changed or searched in one evaluation.
MAX_COST = 2**20
#: What costs no more is not counted.
FREE = 512
#: A regular expression takes longer to compile than it saves, if there are thousands.
_MAX_REGEXES = 128


class Allowance:
    """What may still be parsed: by one expression, or by all of those of one filter."""

    __slots__ = ("regexes", "tokens")

    def __init__(self) -> None:
        self.tokens = MAX_TOKENS
        self.regexes = _MAX_REGEXES


class Costly(Exception):
    """Raised by a closure that would handle much text, where nobody counts: evaluate again with `Counted`."""


class Counted(dict[str, Value]):
    """The attributes of an event for one evaluation, and what that may still cost."""

    left = MAX_COST


def afford(attributes: Mapping[str, Value], cost: int) -> bool:
    """Take ``cost`` from what is left, and tell whether it was. Raises Costly if nobody counts."""
    if not isinstance(attributes, Counted):
        raise Costly
    attributes.left -= cost
    return attributes.left >= 0
