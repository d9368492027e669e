"""What became of an event that was sent: acknowledged, refused, or not delivered.

Frozen values, told apart by ``match``. Each one lists the attempts that led to it. Give fields by keyword. All have
``status`` and ``reply``, which are None where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn

from cloudevents_kit._errors import DeliveryError

if TYPE_CHECKING:
    from cloudevents_kit._event import Event

Reason = Literal[
    "invalid-event", "invalid-url", "dns", "refused", "tls", "connect-timeout", "timeout", "reset", "protocol",
    "network", "headers", "gone", "overload", "closed", "unknown",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at delivering an event."""

    number: int = 1
    """Counts from 1; the immediate re-send after a kept-alive connection turned out closed keeps the number."""
    status: int | None = None
    """HTTP status, or None without an answer."""
    error: Reason | None = None
    """Why there was no answer, or None."""
    wait: float = 0.0
    """Seconds waited before this attempt."""
    elapsed: float = 0.0
    """Seconds from sending to the answer or error."""


class _Outcome:
    __slots__ = ()
    outcome: ClassVar[Literal["ack", "nack", "undelivered"]]

    @property
    def is_ack(self) -> bool:
        """Tell whether the event was acknowledged."""
        return self.outcome == "ack"

    @property
    def is_nack(self) -> bool:
        """Tell whether the peer answered and refused."""
        return self.outcome == "nack"

    @property
    def is_undelivered(self) -> bool:
        """Tell whether no answer came."""
        return self.outcome == "undelivered"

    def __bool__(self) -> bool:
        """Be true for an Ack only."""
        return self.outcome == "ack"


@dataclass(frozen=True, slots=True)
class Ack(_Outcome):
    """The peer answered 2xx: the event was handled, or stored."""

    outcome: ClassVar[Literal["ack"]] = "ack"
    status: int = 204
    """HTTP status; 202 means stored, not yet handled."""
    reply: Event | None = None
    """The event that the peer answered with."""
    reply_error: str | None = None
    """Why a reply that was there, or was asked for, could not be had. The event itself was acknowledged."""
    attempts: tuple[Attempt, ...] = ()
    """Every try, in order."""
    elapsed: float = 0.0
    """Seconds from the call to this result, waits included."""

    def raise_for_outcome(self) -> Ack:
        """Return self."""
        return self


@dataclass(frozen=True, slots=True)
class Nack(_Outcome):
    """The peer answered anything but 2xx: it did not take the event."""

    outcome: ClassVar[Literal["nack"]] = "nack"
    reply: ClassVar[None] = None
    status: int = 500
    """HTTP status."""
    reason: str = ""
    """First line of the answer's body, or the status phrase."""
    retryable: bool = False
    """Whether sending the same event again may help."""
    retry_after: float | None = None
    """Seconds that the peer asked to wait."""
    attempts: tuple[Attempt, ...] = ()
    """Every try, in order."""
    elapsed: float = 0.0
    """Seconds from the call to this result, waits included."""
    dead_lettered: bool = False
    """Whether the event was stored as a dead letter, from where it can be sent again: see `dead_letter`."""
    cause: Exception | None = field(default=None, compare=False, repr=False)
    """What a handler in this process raised; not part of what the result is, and neither sent nor pickled."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise DeliveryError, caused by what a handler in this process raised."""
        error = DeliveryError(self, f"nack {self.status}: {self.reason or 'no reason given'}")
        if self.cause is not None:
            error.__cause__ = self.cause
        raise error

    def __getstate__(self) -> list[object]:
        """Leave the cause out: not every exception can be pickled."""
        return [None if one.name == "cause" else getattr(self, one.name) for one in fields(self)]


@dataclass(frozen=True, slots=True)
class Undelivered(_Outcome):
    """No answer came. The event may have arrived all the same: see ``possibly_delivered``."""

    outcome: ClassVar[Literal["undelivered"]] = "undelivered"
    status: ClassVar[None] = None
    reply: ClassVar[None] = None
    reason: Reason = "unknown"
    """What went wrong, as one word to branch on."""
    error: str = ""
    """What went wrong, for people."""
    possibly_delivered: bool = False
    """False: no byte of the event left. True: the peer may have handled it."""
    attempts: tuple[Attempt, ...] = ()
    """Every try, in order."""
    elapsed: float = 0.0
    """Seconds from the call to this result, waits included."""
    dead_lettered: bool = False
    """Whether the event was stored as a dead letter, from where it can be sent again: see `dead_letter`."""

    def raise_for_outcome(self) -> NoReturn:
        """Raise DeliveryError."""
        maybe = " (the event may have arrived)" if self.possibly_delivered else ""
        raise DeliveryError(self, f"undelivered, {self.reason}: {self.error or 'no answer'}{maybe}")


Result = Ack | Nack | Undelivered
