"""What `deduplicate` writes into a store: the key of an event, what came of it, and how long that is kept."""

from __future__ import annotations

from collections.abc import Mapping

from cloudevents_kit import _frozen
from cloudevents_kit._arguments import check_kind, check_positive
from cloudevents_kit._contract import ACCEPTED, Outcome, acknowledge
from cloudevents_kit._event import Event
from cloudevents_kit._values import remember
from cloudevents_kit.router import Pattern
from cloudevents_kit.stages._digest import LONGEST, digest

_ACCEPTED = b"202"
_DAY = 86400.0


def identity(event: Event) -> str:
    """Return the key of the pair (source, id), as every store takes it: no other pair has the same."""
    attributes = event._attributes  # noqa: SLF001 - properties take longer than all the rest
    return identity_of(attributes["source"], attributes["id"])  # type: ignore[arg-type]


def identity_of(source: str, id: str) -> str:
    """Return the `identity` of an event with this pair."""
    key = f"{len(source)}:{source}{id}"
    return key if len(key) <= LONGEST and key.isprintable() else digest(key)


def safe_key(key: str) -> str:
    """Return ``key`` as every store takes it: short, without control characters. Raises TypeError or ValueError."""
    check_kind("key", key, str, "a function that returns a str, or None")
    if not key:  # as it would be for every event that lacks what the key is made of
        raise ValueError("key: must not be empty (return None for an event that has no duplicates)")
    return key if len(key) <= LONGEST and key.isprintable() else digest(key)


def pack(outcome: Outcome, event: Event) -> bytes:
    """Write what a handler returned for ``event``. Raises TypeError or ValueError for what is no outcome."""
    if outcome is None:
        return b""
    reply = getattr(acknowledge(outcome, event), "reply", None)
    return _ACCEPTED if reply is None else _frozen.pack(reply)


def unpack(packed: bytes) -> Outcome:
    """Read what `pack` wrote."""
    if not packed:
        return None
    return ACCEPTED if packed == _ACCEPTED else _frozen.unpack(packed)


class Lifetimes:
    """How long a finished event is remembered: one time, or one for each pattern of types, the most specific first."""

    def __init__(self, given: float | Mapping[str, float]) -> None:
        """Take seconds. Raises TypeError or ValueError."""
        by_type = given if isinstance(given, Mapping) else {"*": given}
        for pattern, seconds in by_type.items():
            check_positive("ttl" if by_type is not given else f"ttl[{pattern!r}]", seconds)
        self.given = dict(given) if isinstance(given, Mapping) else given
        self.same = None if isinstance(given, Mapping) else given
        """The seconds for every event, if they do not depend on the type."""
        pairs = [(Pattern(pattern), seconds) for pattern, seconds in by_type.items()]
        self._ordered = sorted(pairs, key=lambda pair: pair[0].rank)
        self._found: dict[str, float] = {}

    def of(self, event: Event) -> float:
        """Return the seconds for ``event``; a day if no pattern fits."""
        found = self._found.get(event.type)
        if found is None:
            found = next((seconds for pattern, seconds in self._ordered if pattern.matches(event)), _DAY)
            remember(self._found, event.type, found)
        return found
