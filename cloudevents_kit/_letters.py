"""What a dead letter is, how it is written as bytes, and what keeps it.

A letter holds an event that could not be handled or delivered, byte for byte, and what went wrong. Its id comes from
what failed and for which event, so that the same failure, met again, adds to the letter that is there. Knows no stores,
no stages and no sending.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import unquote_plus, urlsplit, urlunsplit

import msgspec

from cloudevents_kit import _payload
from cloudevents_kit._contract import verdict
from cloudevents_kit._errors import DeliveryError, Refusal, StageError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Attempt, Nack, Undelivered

Direction = Literal["inbound", "outbound"]
Failure = Nack | Undelivered

_LONGEST_REASON = 2000
_LONGEST_DESTINATION = 2000
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
    """Type of the exception, or the one word that an `Undelivered` has for what went wrong."""
    attempts: int = 1
    """How often it was tried in all, redrives included."""
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
            quarantined=self.quarantined,
            position=self.position,
        )

    def redriven(self, failure: Failure | Exception, began: datetime, ended: datetime) -> DeadLetter:
        """Return this letter after a redrive that ended with ``failure``."""
        if isinstance(failure, Exception):
            told = _told_of(failure, self.event, began, ended)
        else:
            told = _told_by(failure, began, ended)
        return self.again(replace(self, **told, first_at=began, last_at=ended, times=0))


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
    if direction == "outbound" and isinstance(error, DeliveryError):
        told = _told_by(error.result, began, ended)
    else:
        told = _told_of(error, event, began, ended)
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
    if isinstance(result, Nack):
        status: int | None = result.status
        word, text, maybe = "", result.reason, False
    else:
        status, word, text, maybe = None, result.reason, result.error, result.possibly_delivered
    return {
        "status": status,
        "reason": _text(text, _LONGEST_REASON),
        "error": word,
        "attempts": max((attempt.number for attempt in result.attempts), default=1),
        "tries": (*_timed(result.attempts, began),)[-_TRIES_KEPT:]
        or (Tried(began, status, word or None, (ended - began).total_seconds()),),
        "possibly_delivered": maybe or any(attempt.error in _IN_DOUBT for attempt in result.attempts),
    }


def _timed(attempts: Sequence[Attempt], began: datetime) -> Iterator[Tried]:
    at = began
    for attempt in attempts:
        at += timedelta(seconds=attempt.wait)
        yield Tried(at, attempt.status, attempt.error, attempt.elapsed)
        at += timedelta(seconds=attempt.elapsed)


def _told_of(error: Exception, event: Event, began: datetime, ended: datetime) -> dict[str, Any]:
    """Return what an exception says; a `StageError` only tells where, and how often it was tried."""
    cause: BaseException = error
    attempts = 1
    while isinstance(cause, StageError):
        attempts = max(attempts, cause.attempts)
        if cause.__cause__ is None:
            break
        cause = cause.__cause__
    status, kind = verdict(error, event).status, _kind_of(cause)
    return {
        "path": error.path if isinstance(error, StageError) else (),
        "status": status,
        "reason": _text(_reason_of(cause), _LONGEST_REASON),
        "error": kind,
        "attempts": attempts,
        "tries": (Tried(began, status, kind, (ended - began).total_seconds()),),
    }


def _kind_of(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _reason_of(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(f"{_kind_of(one)}: {_reason_of(one)}" for one in error.exceptions)
    try:
        return error.reason if isinstance(error, Refusal) else str(error)
    except Exception:  # noqa: BLE001 - a broken exception must not cost the event
        return ""


def _text(text: str, longest: int) -> str:
    """Return ``text`` as any store can keep it: short, and without lone surrogates and NUL."""
    text = text[:longest].replace("\x00", "\ufffd")
    return text.encode("utf-8", "replace").decode("utf-8")


# Destinations.

_secret = re.compile(
    r"token|secret|passw|pwd|passphrase|credential|auth|jwt|session|cookie|signature|assertion|(^|[-_.])sig($|[-_.])|key"
    r"|^(code|sig|sas|pin|otp|user|login|email|p|pw)$"
).search
_LONGEST_SHOWN = 32
_HIDDEN = "***"


def without_secrets(destination: str) -> str:
    """Return ``destination``; of a URL without user, password and fragment, and with secrets in its query hidden.

    Hidden is what its name gives away, what has no name, and whatever is long. What else is secret, a part of the
    path, nobody can tell.
    """
    shown = "".join(char if char.isprintable() else "_" for char in destination[:_LONGEST_DESTINATION])
    if "://" not in shown:
        return shown
    try:
        parts = urlsplit(shown)
    except ValueError:  # it names no host
        scheme, _, rest = shown.partition("://")
        return f"{scheme}://{re.split('[?#]', rest)[0].rpartition('@')[2]}"
    query = "&".join(_shown(pair) for pair in parts.query.split("&")) if parts.query else ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, query, ""))


def _shown(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if not equals:
        return _HIDDEN if pair else pair
    hide = len(value) >= _LONGEST_SHOWN or _secret(unquote_plus(name).lower()) is not None
    return f"{name}={_HIDDEN}" if hide and value else pair


# A letter as bytes. The JSON format would do for most events, but trims white space around JSON and turns what cannot
# be read as its content type says into bytes; here everything comes back as it was.


def _freeze(event: Event) -> object:  # all else in a letter is known to msgspec
    return {"attributes": event._attributes, "data": event._raw, "form": event._form}


class _Frozen(msgspec.Struct):
    attributes: dict[str, str | bool | int]
    data: bytes
    form: Annotated[int, msgspec.Meta(ge=_payload.ABSENT, le=_payload.BODY)]


def _thaw(_: type[Event], value: object) -> Event:
    frozen = msgspec.convert(value, _Frozen)
    return Event._checked(frozen.attributes, frozen.data, frozen.form)


_encode = msgspec.json.Encoder(enc_hook=_freeze).encode
_decode = msgspec.json.Decoder(DeadLetter, dec_hook=_thaw).decode


def pack(letter: DeadLetter) -> bytes:
    """Write ``letter`` as JSON; its position is the store's."""
    return _encode(letter)


def unpack(packed: bytes, *, position: int, redrives: int) -> DeadLetter:
    """Read what `pack` wrote, with what the store itself keeps. Raises ValueError if it is something else."""
    try:
        return replace(_decode(packed), position=position, redrives=redrives)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"the dead letter at position {position} cannot be read: {error}") from error
