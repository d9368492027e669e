"""What a dead letter is, how it is written as bytes, and what keeps it.

A letter holds an event that could not be handled or delivered, byte for byte, and what went wrong. Its id comes from
what failed and for which event, so that the same failure, met again, adds to the letter that is there. Knows no stores,
no stages and no sending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, Literal, Protocol

import msgspec

from cloudevents_kit import _frozen
from cloudevents_kit._contract import verdict
from cloudevents_kit._errors import DeliveryError, Refusal, StageError, cause_of, kind_of
from cloudevents_kit._event import Event
from cloudevents_kit._result import Attempt, Nack, Undelivered
from cloudevents_kit._secrets import text_without_secrets, without_secrets

Direction = Literal["inbound", "outbound"]
Failure = Nack | Undelivered

_LONGEST = 2000
_TRIES_KEPT = 50
#: An attempt that ended so may have arrived all the same.
_IN_DOUBT = frozenset({"timeout", "reset", "protocol", "network", "unknown"})


@dataclass(frozen=True, slots=True)
class Tried:
    """One try at handling or delivering the event of a dead letter."""

    at: datetime
    """When it began, in UTC."""
    status: int | None = None
    """HTTP status it ended with, or would have been answered with; None without an answer."""
    error: str | None = None
    """Why there was no answer, in one word, or the type of the exception; None if there was an answer."""
    elapsed: float = 0.0
    """Seconds it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An event that could not be handled or delivered, and what is known of that. Times are in UTC."""

    event: Event
    """The event as it was: attributes, their types and spelling, and the bytes of its data."""
    direction: Direction
    """``inbound``: a handler failed; ``outbound``: a sink did."""
    destination: str
    """Name of the handler, or URL of the sink without credentials and secrets."""
    path: tuple[str, ...] = ()
    """Names of the stages that led to the failure, outermost first; empty if the handler itself failed."""
    status: int | None = None
    """HTTP status of the last answer, or for a handler's error the one it stands for; None without an answer."""
    reason: str = ""
    """What went wrong, for people. May tell what the exception told."""
    error: str = ""
    """Type of the exception, such as ``Reject`` or ``sqlite3.OperationalError``, or the word of an `Undelivered`."""
    attempts: int = 1
    """How often it was tried in all, redrives included. A time that a queue or an outbox has counted is one."""
    tries: tuple[Tried, ...] = ()
    """The last tries, in order. Of those that `stages.retry` made, only the whole is known."""
    first_at: datetime
    """When the first try began."""
    last_at: datetime
    """When the last try ended."""
    possibly_delivered: bool = False
    """Whether a sink's peer may have had the event all the same, in any of the tries."""
    times: int = 1
    """How often this event became this dead letter: more than once if its sender sent it again."""
    redrives: int = 0
    """How often a redrive has taken it up since; kept by the store."""
    failures: int = 0
    """How many of these saw it fail; the others were cut short, or it came back as a dead letter meanwhile."""
    quarantined: bool = False
    """Whether redrives leave it alone, because it failed too often."""
    position: int = 0
    """Where it stands in its store, which sets it; later ones have higher numbers."""

    @property
    def id(self) -> str:
        """Identifies the letter in its store: made of direction, destination, and the event's source and id."""
        parts = (self.direction, self.destination, *self.event.key)
        return sha256(msgspec.json.encode(parts)).hexdigest()

    def again(self, later: DeadLetter) -> DeadLetter:
        """Return this letter after the same event has failed once more, as ``later`` tells."""
        return replace(
            later,
            first_at=min(self.first_at, later.first_at),
            attempts=self.attempts + later.attempts,
            tries=(*self.tries, *later.tries)[-_TRIES_KEPT:],
            possibly_delivered=self.possibly_delivered or later.possibly_delivered,
            times=self.times + later.times,
            redrives=self.redrives,
            failures=self.failures,
            quarantined=self.quarantined,
            position=self.position,
        )

    def redriven(self, failure: Failure | Exception, began: datetime, ended: datetime) -> DeadLetter:
        """Return this letter, leased, after a redrive that ended with ``failure``."""
        if isinstance(failure, Exception):
            told = _told_of(failure, self.event, began, ended)
        else:
            told = _told_by(failure, began, ended)
        failed = self.again(replace(self, **told, first_at=began, last_at=ended, times=0))
        maybe = failed.possibly_delivered or self.unended > 0
        return replace(failed, failures=self.failures + 1, possibly_delivered=maybe)

    @property
    def unended(self) -> int:
        """How many redrives before the present one came to no end that is known: a crash, as a rule."""
        return self.redrives - 1 - self.failures


class DeadLetterStore(Protocol):
    """Where dead letters are kept. Each method is atomic, among all processes that use the store.

    A letter is found by its `id`, keeps its position for as long as it is there, and is leased to one redrive at a
    time: to whoever shows the token of its last lease.
    """

    async def add(self, letter: DeadLetter, /) -> bool:
        """Store ``letter`` where a crash cannot lose it; return False, having changed nothing, if there is no room.

        If a letter with its id is there, that becomes ``there.again(letter)``, and its lease is void.
        """
        ...

    async def read(self, after: int, limit: int, /) -> Sequence[DeadLetter]:
        """Return the first ``limit`` letters whose position is above ``after``, in order, leased ones included."""
        ...

    async def lease(self, id: str, seconds: float, /) -> tuple[str, DeadLetter] | None:
        """Lease a letter for ``seconds`` and count that as a redrive; None if it is gone, or leased by somebody else.

        Returns a token that nobody has had before, and the letter as it now is.
        """
        ...

    async def settle(self, id: str, token: str, letter: DeadLetter | None, /) -> bool:
        """End a lease: remove the letter if ``letter`` is None, else put that in its place, redrives included.

        Return False, having changed nothing, if ``token`` is not that of the last lease; that it has run out does not
        matter as long as nobody else has leased the letter.
        """
        ...

    async def purge(self, before: datetime | None, keep: int | None, /) -> int:
        """Remove the letters whose ``last_at`` is before ``before``, and all but the ``keep`` with highest positions.

        Return how many. Letters with a lease that has not run out stay.
        """
        ...


def letter_of(
    event: Event, error: Exception, *, direction: Direction, destination: str, began: datetime, ended: datetime
) -> DeadLetter:
    """Return the dead letter of ``event``, which failed with ``error``; `DeliveryError` is a sink's result."""
    told = _told_of(error, event, began, ended)
    if direction == "outbound" and isinstance(cause := cause_of(error), DeliveryError):
        by = _told_by(cause.result, began, ended)
        told = {
            **by,
            "path": told["path"] or by["path"],
            "attempts": max(told["attempts"], by["attempts"], cause.attempts),
        }
    return DeadLetter(
        event=event,
        direction=direction,
        destination=without_secrets(destination),
        first_at=began,
        last_at=ended,
        **told,
    )


def _told_by(result: Failure, began: datetime, ended: datetime) -> dict[str, Any]:
    """Return what a result says."""
    path: tuple[str, ...] = ()
    attempts = 1
    if isinstance(result, Nack):
        status: int | None = result.status
        word, text, maybe = "", result.reason, False
        if (error := result.cause) is not None:  # of a handler in this process
            word, text = _text(kind_of(cause_of(error))), _reason_of(cause_of(error))
            path, attempts = _way_of(error)
    else:
        status, word, text, maybe = None, _text(result.reason), result.error, result.possibly_delivered
    tries = (*_timed(result.attempts, began),)
    tries = tries or (Tried(began, status, word or None, (ended - began).total_seconds()),)
    return {
        "path": path,
        "status": status,
        "reason": _told(text),
        "error": word,
        "attempts": len(tries) if result.attempts else attempts,
        "tries": tries[-_TRIES_KEPT:],
        "possibly_delivered": maybe or any(attempt.error in _IN_DOUBT for attempt in result.attempts),
    }


def _timed(attempts: Sequence[Attempt], began: datetime) -> Iterator[Tried]:
    at = began
    for attempt in attempts:
        at += timedelta(seconds=attempt.wait)
        yield Tried(at, attempt.status, None if attempt.error is None else _text(attempt.error), attempt.elapsed)
        at += timedelta(seconds=attempt.elapsed)


def _told_of(error: Exception, event: Event, began: datetime, ended: datetime) -> dict[str, Any]:
    """Return what an exception says; a `StageError` only tells where, and how often it was tried."""
    cause = cause_of(error)
    path, attempts = _way_of(error)
    status, kind = verdict(error, event).status, _text(kind_of(cause))
    return {
        "path": path,
        "status": status,
        "reason": _told(_reason_of(cause)),
        "error": kind,
        "attempts": attempts,
        "tries": (Tried(began, status, kind, (ended - began).total_seconds()),),
    }


def _way_of(error: BaseException) -> tuple[tuple[str, ...], int]:
    """Return the stages on the way to ``error``, and how often it was tried, as far as it tells."""
    return (tuple(map(_text, error.path)), error.attempts) if isinstance(error, StageError) else ((), 1)


def _reason_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(f"{kind_of(one)}: {_reason_of(one)}" for one in error.exceptions)
    try:
        return error.reason if isinstance(error, Refusal) else str(error)
    except Exception:  # noqa: BLE001 - a broken exception must not cost the event
        return ""


def _text(text: str) -> str:
    """Return ``text`` as any store can keep it: short, and without lone surrogates and NUL."""
    return text[:_LONGEST].replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def _told(text: str) -> str:
    """Return what an exception or a peer says, as it can be kept, and without the secrets in it."""
    return _text(text_without_secrets(text[: 5 * _LONGEST]))  # more, so that none is cut in two


# A letter as bytes.

_encode = msgspec.json.Encoder(enc_hook=_frozen.freeze).encode
_decode = msgspec.json.Decoder(DeadLetter, dec_hook=_frozen.thaw).decode


def pack(letter: DeadLetter) -> bytes:
    """Write ``letter`` as JSON; its position is the store's."""
    return _encode(letter)


def unpack(packed: bytes, *, position: int, redrives: int) -> DeadLetter:
    """Read what `pack` wrote, with what the store itself keeps. Raises ValueError if it is something else."""
    try:
        return replace(_decode(packed), position=position, redrives=redrives)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"the dead letter at position {position} cannot be read: {error}") from error
