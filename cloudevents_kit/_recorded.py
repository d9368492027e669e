"""What an event log keeps, and the protocols of what keeps it; see `event_log`. Knows no database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol

from cloudevents_kit._errors import CloudEventsError
from cloudevents_kit._event import Event


class Conflict(CloudEventsError):
    """A stream is not at the version that an append expected; nothing was appended.

    Read what has come meanwhile, decide anew, and append again.
    """

    def __init__(self, stream: str, expected: int | None, actual: int) -> None:
        """Say where ``stream`` is; ``expected`` None: some of the events, but not all, are in it already."""
        self.stream = stream
        self.expected = expected
        self.actual = actual
        """The version of the stream."""
        told = "some of the events are in it" if expected is None else f"version {expected} was expected"
        super().__init__(f"stream {stream}: {told}, and it is at version {actual}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """An event in the log, and where it is there."""

    event: Event
    """The event as it was appended, or as newer code wants it."""
    stream: str
    """The stream it belongs to."""
    version: int
    """Its number in the stream: 1 for the first, without gaps."""
    position: int
    """Its number in the log: 1 for the first, without gaps."""
    at: datetime
    """When it was appended, in UTC, by the clock of the store; never before that of an earlier position."""


class Appended(NamedTuple):
    """Where events were appended."""

    version: int
    """The number of the last of them in its stream."""
    position: int
    """Its number in the log."""
    repeated: bool = False
    """They were in the stream already, from an earlier call."""


class Checkpoint(NamedTuple):
    """How far a projection is."""

    name: str
    position: int
    """The last event that it has got; 0 if none."""
    waiting: int
    """Events after that."""
    oldest: float
    """Seconds since the first of these was appended; 0.0 if there is none."""


#: Gets the connection of a transaction, or None from a store that has none; what it raises undoes the transaction.
Work = Callable[[Any], Awaitable[None]]
#: Gets events in their order, and the same.
Inline = Callable[[Sequence[Recorded], Any], Awaitable[None]]


class CheckpointStore(Protocol):
    """Keeps how far projections are, by name. Each method is atomic, among all processes that use the store."""

    async def lease(self, name: str, token: str, seconds: float, /) -> int | None:
        """Take or keep the lease of ``name`` for ``seconds``, and return its position; None if another one has it.

        With 0 seconds, give it back.
        """
        ...

    async def advance(self, name: str, token: str | None, before: int, after: int, work: Work | None, /) -> bool:
        """Move from position ``before`` to ``after``, and do ``work`` in the same transaction.

        Return False, and do nothing, if it is at another position, or if another one has taken the lease ``token``.
        What ``work`` raises is raised; it may be called again if the transaction failed.
        """
        ...

    async def reset(self, name: str, work: Work | None, /) -> None:
        """Move to position 0 and end any lease, and do ``work`` in the same transaction."""
        ...

    async def read(self, names: Sequence[str], /) -> Sequence[Checkpoint]:
        """Return where each of ``names`` is."""
        ...


class SnapshotStore(Protocol):
    """Keeps states of streams that were computed once; all of it may be lost at any time."""

    async def load(self, stream: str, name: str, schema: int, /) -> tuple[int, bytes] | None:
        """Return the version of ``stream`` and the state it had there, the latest that was saved."""
        ...

    async def save(self, stream: str, name: str, schema: int, version: int, state: bytes, /) -> None:
        """Keep ``state``, if there is none of a later version."""
        ...

    async def forget(self, name: str | None, /) -> int:
        """Remove all states, or those of one name, and return how many."""
        ...


class EventLogStore(Protocol):
    """Keeps events for good, in streams. Each method is atomic, among all processes that use the store."""

    @property
    def checkpoints(self) -> CheckpointStore:
        """How far projections are, in the same database."""
        ...

    @property
    def snapshots(self) -> SnapshotStore:
        """States of streams."""
        ...

    async def append(
        self, stream: str, events: Sequence[Event], expected: int | None, inline: Mapping[str, Inline], /
    ) -> Appended:
        """Append all ``events`` to ``stream`` if it is at version ``expected``, or wherever it is; see `decide`.

        Then, in the same transaction, hand to each of ``inline``, by the name of its checkpoint, what comes after that,
        these events included, and move it to the end. Whatever one of these raises is raised, and nothing is stored.
        Raises Conflict. Events of several calls become visible in the order of their positions.
        """
        ...

    async def read(self, stream: str | None, after: int, most: int, /) -> Sequence[Recorded]:
        """Return the first ``most`` events after version ``after`` of ``stream``; of the log, after that position."""
        ...

    async def find(self, before: datetime | None, /) -> int:
        """Return the position of the last event that was appended ``before`` a time, or ever; 0 if none."""
        ...


def decide(
    stream: str, version: int, expected: int | None, found: Sequence[tuple[int, int] | None]
) -> Appended | Conflict | None:
    """Tell what becomes of an append to ``stream``, which is at ``version``; None if the events are to be appended.

    ``found`` has, for each event, the version and position of one with the same (source, id) in the stream. All of
    them in a row, and where they are expected, are those of an earlier call whose answer was lost.
    """
    first, last = found[0], found[-1]
    if first is not None and last is not None:
        in_a_row = [one and one[0] for one in found] == [*range(first[0], first[0] + len(found))]
        if in_a_row and expected in {None, first[0] - 1}:
            return Appended(*last, repeated=True)
    if expected is not None and expected != version:
        return Conflict(stream, expected, version)
    return Conflict(stream, None, version) if any(found) else None
