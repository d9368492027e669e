"""Dead letters: what could not be handled or delivered is kept, with the reason, and can be sent again.

    Receiver(router, dead_letters(store), stages.retry(), port=8080)          # inbound: acknowledged once it is stored
    sink = DeadLetterSink(sender, store)                                      # outbound: the result says so
    await redrive(store, filters.prefix(type="com.example."), to=sender, dry_run=False)

What a letter is, and what keeps it, is in `_letters`; the way back is in `_redrive`.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from cloudevents_kit._arguments import check_callable, check_flag, check_kind, check_methods
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, Sink, log, name_of, verdict
from cloudevents_kit._errors import DeliveryError, Refusal, StageError
from cloudevents_kit._event import Event
from cloudevents_kit._letters import DeadLetter, DeadLetterStore, Direction, Tried, letter_of
from cloudevents_kit._lifecycle import links
from cloudevents_kit._redrive import Redriven, letters, purge, redrive
from cloudevents_kit._result import Ack, Nack, Result
from cloudevents_kit.stages._on_error import OnError, Only
from cloudevents_kit.stages._stage import Stage, cause_of, name_of_function

__all__ = [
    "DeadLetter",
    "DeadLetterSink",
    "DeadLetterStore",
    "Forwarder",
    "Redriven",
    "Tried",
    "dead_letters",
    "forwarded",
    "keeper",
    "letters",
    "purge",
    "redrive",
]

_KNATIVE_DATA = 1024
_ON = ("failed", "exhausted", "all")


class Keeps(Protocol):
    """The part of a `DeadLetterStore` that takes letters."""

    async def add(self, letter: DeadLetter, /) -> bool:
        """Take ``letter``; see `DeadLetterStore.add`."""
        ...


async def _keep(store: Keeps, letter: DeadLetter, error: Exception) -> None:
    """Put ``letter`` into ``store``, or raise."""
    if not await store.add(letter):
        raise RuntimeError("the dead-letter store is full")
    told = None if isinstance(cause_of(error), Refusal | DeliveryError) else error
    log.error("dead letter of %s: %s: %s", letter.destination, name_of(letter.event), _line(letter), exc_info=told)


def _line(letter: DeadLetter) -> str:
    """Tell in one line what went wrong."""
    parts = (str(letter.status or ""), letter.error, letter.reason.partition("\n")[0])
    return " ".join(part for part in parts if part)


def keeper(
    store: Keeps, destination: str, *, clock: Clock | None = None
) -> Callable[[Event, Exception], Awaitable[object]]:
    """Return a hook ``hook(event, error)`` that puts events into ``store``: what queues, sagas and others ask for.

    ``destination`` names what failed. A `DeliveryError` makes an outbound letter, which tells what its result does.
    """
    check_methods("store", store, "a DeadLetterStore", "add")
    check_kind("destination", destination, str, "a str, the name of what failed")
    now = (clock or SystemClock()).now

    async def keep(event: Event, error: Exception) -> None:
        ended = began = now()
        direction: Direction = "inbound"
        if isinstance(error, DeliveryError):
            direction, began = "outbound", ended - timedelta(seconds=error.result.elapsed)
        letter = letter_of(event, error, direction=direction, destination=destination, began=began, ended=ended)
        await _keep(store, letter, error)

    return keep


#: When the current event came to the stage, and what is further in.
_entered: ContextVar[tuple[datetime, Handler]] = ContextVar("cloudevents_kit.dead_letter")


class _DeadLetters(OnError):
    kind = "dead_letters"
    handed_over = "dead_lettered"

    def __init__(
        self,
        store: Keeps,
        name: str | None = None,
        *,
        on: str | Only,
        destination: str | None,
        timeout: float,
        clock: Clock | None,
        direction: Direction = "inbound",
    ) -> None:
        check_methods("store", store, "a DeadLetterStore", "add")
        if isinstance(on, str) and on not in _ON:
            raise ValueError(f"on: must be one of {', '.join(_ON)}, types of exceptions or a function, not {on!r}")
        if destination is not None:
            check_kind("destination", destination, str, "a str, the name of what failed")
        super().__init__(self._store_it, None if isinstance(on, str) else on, timeout, name)
        self._store, self._on, self._destination, self._direction = store, on, destination, direction
        self._clock = (clock or SystemClock()).now

    @property
    def parameters(self) -> Mapping[str, object]:
        found = {"store": type(self._store).__name__, "on": self._on, "timeout": self._seconds}
        return found if self._destination is None else {**found, "destination": self._destination}

    def note(self, what: str) -> None:
        if self._direction == "inbound":
            super().note(what)
        else:  # what became of an event that was sent is not the fate of the one being handled
            self.counts[what] += 1

    def chooses(self, error: Exception, event: Event) -> bool:
        if self._on == "failed":
            return not _asks_again(error)
        if self._on == "exhausted":
            return not verdict(error, event).retryable or _gave_up(error)
        return super().chooses(error, event)

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        before = _entered.set((self._clock(), call_next))
        try:
            return await super().run(event, call_next)
        finally:
            _entered.reset(before)

    async def _store_it(self, event: Event, error: Exception) -> None:
        began, call_next = _entered.get()
        letter = letter_of(
            event,
            error,
            direction=self._direction,
            destination=_name_of_handler(call_next) if self._destination is None else self._destination,
            began=began,
            ended=self._clock(),
        )
        await _keep(self._store, letter, error)


def _asks_again(error: Exception) -> bool:
    """Tell whether somebody further in refused the event for now, and nobody has tried it again in vain."""
    cause = cause_of(error)
    return isinstance(cause, Refusal) and cause.retryable and not _gave_up(error)


def _gave_up(error: Exception) -> bool:
    return isinstance(error, StageError) and error.kind == "exhausted"


def _name_of_handler(handler: object) -> str:
    while (further := links(handler).get("call_next")) is not None:
        handler = further
    return name_of_function(handler, "handler")


def dead_letters(
    store: Keeps,
    *,
    on: Literal["failed", "exhausted", "all"] | Only = "failed",
    destination: str | None = None,
    timeout: float = 10.0,
    clock: Clock | None = None,
    name: str | None = None,
) -> Stage:
    """Keep events that fail further in, and acknowledge them once they are stored.

    If the store refuses, fails or takes too long, the event fails, to be sent again, whatever the error was; both
    errors are raised in an ExceptionGroup. Like every hook of `stages.on_error`, storing has a time limit of its own,
    is not cut short by one from outside, and never happens for a cancelled event.

    Put it outside of `stages.retry`, so that an event is kept once its attempts are used up, and inside of
    `stages.deduplicate`.

    Args:
        store: a `DeadLetterStore`, or a `Forwarder`. Whoever makes a store opens and closes it.
        on: which errors: ``failed``, all but a `Retry` (a full queue, a rate limit) that nobody has repeated in vain;
            ``exhausted``, only what sending again cannot mend, and what `stages.retry` gave up; ``all``; or types or a
            function, as the ``only`` of `stages.on_error`. Whatever is not chosen passes.
        destination: names what failed; by default the name of the handler. The same event that fails at the same
            destination is one letter, so handlers that share a store need different ones.
        timeout: seconds after which storing has failed.
        clock: for the times in letters.
        name: name of the stage.
    """
    return _DeadLetters(store, name, on=on, destination=destination, timeout=timeout, clock=clock)


class DeadLetterSink:
    """Sends to ``sink``, and keeps what it does not deliver. Whoever made ``sink`` opens and closes it.

    The caller gets the truth: the result of ``sink``, with ``dead_lettered`` set once the event is stored. If it
    cannot be stored, the result says that, too, in its reason or error, and the log has both errors.

    Args:
        sink: does its own retries: whatever it gives up is final.
        store: a `DeadLetterStore`, or a `Forwarder`.
        destination: names ``sink``; by default its URL, without secrets. A sink that has none needs a name.
        on: tells whether a result that is no Ack makes a dead letter; by default each does.
        acknowledge: True: return Ack(status=202) for an event that is stored, for callers who only want to know that
            somebody has it. A store that forgets at a restart makes that a lie.
        timeout: seconds after which storing has failed.
        clock: for the times in letters.
    """

    def __init__(
        self,
        sink: Sink,
        store: Keeps,
        *,
        destination: str | None = None,
        on: Callable[[Result], bool] | None = None,
        acknowledge: bool = False,
        timeout: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        """Check the settings."""
        check_methods("sink", sink, "a Sink", "send")
        check_flag("acknowledge", acknowledge)
        if on is not None:
            check_callable("on", on)
        found = getattr(sink, "url", None) if destination is None else destination
        check_kind("destination", found, str, "a str, the name of the sink, which has no url")
        self._sink, self._on, self._acknowledge = sink, on, acknowledge
        self._stage = _DeadLetters(
            store, on=self._chooses, destination=found, timeout=timeout, clock=clock, direction="outbound"
        )
        self.branches = {"sink": sink}

    @property
    def counts(self) -> Mapping[str, int]:
        """How many were ``dead_lettered``, ``propagated`` (not chosen) and ``hook_failed`` (not stored)."""
        return self._stage.counts

    def _chooses(self, error: Exception) -> bool:
        return isinstance(error, DeliveryError) and (self._on is None or self._on(error.result))

    async def send(self, event: Event, /) -> Result:
        """Deliver ``event``, or keep it."""
        result: Result = Ack()

        async def deliver(event: Event) -> None:
            nonlocal result
            result = await self._sink.send(event)
            if not isinstance(result, Ack):
                result.raise_for_outcome()

        try:
            await self._stage.run(event, deliver)
        except DeliveryError:  # not chosen
            return result
        except StageError as error:
            log.error("lost by its sink, and by the dead-letter store: %s", name_of(event), exc_info=error.__cause__)
            return _unkept(result)
        if isinstance(result, Ack):
            return result
        if self._acknowledge:
            return Ack(status=202, attempts=result.attempts, elapsed=result.elapsed)
        return replace(result, dead_lettered=True)


def _unkept(result: Result) -> Result:
    more = "and the dead-letter store did not take it"
    if isinstance(result, Nack):
        return replace(result, reason=f"{result.reason} ({more})")
    return result if isinstance(result, Ack) else replace(result, error=f"{result.error} ({more})")


def forwarded(letter: DeadLetter) -> Event:
    """Return the letter's event with the extensions by which Knative tells why it is a dead letter.

    ``knativeerrordest`` is the destination; ``knativeerrorcode`` the last status, 500 if there was no answer;
    ``knativeerrordata`` the reason in base64, cut after 1024 characters, left out if there is none.
    """
    reason = letter.reason
    if letter.status is None:
        reason = f"dispatch error: {reason or letter.error}"
    data = base64.b64encode(reason.encode()).decode("ascii")[:_KNATIVE_DATA]
    return letter.event.evolve(
        knativeerrordest=letter.destination or None,
        knativeerrorcode=500 if letter.status is None else letter.status,
        knativeerrordata=data or None,
    )


class Forwarder:
    """Sends dead letters on to ``sink``, `forwarded`, instead of storing them. They are kept if it acknowledges."""

    def __init__(self, sink: Sink) -> None:
        """Send to ``sink``."""
        check_methods("sink", sink, "a Sink", "send")
        self._sink = sink

    async def add(self, letter: DeadLetter, /) -> bool:
        """Send ``letter`` on. Raises DeliveryError if it is not acknowledged."""
        (await self._sink.send(forwarded(letter))).raise_for_outcome()
        return True
