"""Dead letters: what could not be handled or delivered is kept, with the reason, and can be sent again.

    Receiver(router, dead_letters(store), stages.retry(), port=8080)          # inbound: acknowledged once it is stored
    sink = DeadLetterSink(sender, store)                                      # outbound: the result says so
    await redrive(store, filters.prefix(type="com.example."), to=sender, dry_run=False)

What a letter is, and what keeps it, is in `_letters`; what is done with it later, in `_dead_letter`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Literal, Protocol

from cloudevents_kit._arguments import check_flag, check_kind, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, Sink, hand_off, log, name_of, verdict
from cloudevents_kit._dead_letter._forward import Forwarder, forwarded
from cloudevents_kit._dead_letter._reading import check_store, letters, purge
from cloudevents_kit._dead_letter._redrive import Redriven, redrive
from cloudevents_kit._errors import DeliveryError, Refusal, StageError, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._letters import DeadLetter, DeadLetterStore, Direction, Failure, Tried, letter_of
from cloudevents_kit._lifecycle import links
from cloudevents_kit._result import Ack, Nack, Result
from cloudevents_kit._secrets import without_secrets
from cloudevents_kit._tasks import see_through
from cloudevents_kit.stages._calls import check_plain, plain
from cloudevents_kit.stages._on_error import OnError, Only
from cloudevents_kit.stages._stage import Stage, name_of_function

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
    check_store(store, "add")
    check_kind("destination", destination, str, "a str, the name of what failed")
    now = (clock or SystemClock()).now

    async def keep(event: Event, error: Exception) -> None:
        ended = began = now()
        direction: Direction = "inbound"
        if isinstance(cause := cause_of(error), DeliveryError):
            direction, began = "outbound", ended - timedelta(seconds=cause.result.elapsed)
        letter = letter_of(event, error, direction=direction, destination=destination, began=began, ended=ended)
        await _keep(store, letter, error)

    return keep


#: When the current event came to the stage, and what is further in.
_entered: ContextVar[tuple[datetime, Handler]] = ContextVar("cloudevents_kit.dead_letter")


class _DeadLetters(OnError):
    kind = "dead_letters"
    handed_over = "dead_lettered"
    not_handed_over = "dead_letter_failed"

    def __init__(
        self,
        store: Keeps,
        name: str | None = None,
        *,
        on: str | Only,
        destination: str | None,
        timeout: float,
        clock: Clock | None,
    ) -> None:
        check_store(store, "add")
        if isinstance(on, str) and on not in _ON:
            raise ValueError(f"on: must be one of {', '.join(_ON)}, types of exceptions or a function, not {on!r}")
        if destination is not None:
            check_kind("destination", destination, str, "a str, the name of what failed")
            destination = without_secrets(destination)
        super().__init__(self._store_it, None if isinstance(on, str) else on, timeout, name, called="on")
        self._store, self._on, self._destination = store, on, destination
        self._clock = (clock or SystemClock()).now

    @property
    def parameters(self) -> Mapping[str, object]:
        found = {"store": type(self._store).__name__, "on": self._on, "timeout": self._seconds}
        return found if self._destination is None else {**found, "destination": self._destination}

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
            direction="inbound",
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
        check_store(store, "add")
        check_flag("acknowledge", acknowledge)
        check_positive("timeout", timeout)
        if on is not None:
            check_plain("on", on)
        found = getattr(sink, "url", None) if destination is None else destination
        check_kind("destination", found, str, "a str, the name of the sink, which has no url")
        self._sink, self._store, self._destination, self._on = sink, store, str(found), on
        self._acknowledge, self._timeout = acknowledge, timeout
        self._clock = (clock or SystemClock()).now
        self.counts: Counter[str] = Counter()
        """How many were ``dead_lettered``, ``propagated`` (not chosen) and ``dead_letter_failed`` (not stored)."""
        self.branches = {"sink": sink}

    async def send(self, event: Event, /) -> Result:
        """Deliver ``event``, or keep it."""
        began = self._clock()
        result = await self._sink.send(event)
        if isinstance(result, Ack):
            return result
        try:
            result.raise_for_outcome()
        except DeliveryError as error:
            failure = error
        try:
            if not result.dead_lettered:  # by a sink further in
                if self._on is not None and not plain(self._on(result)):
                    self.counts["propagated"] += 1
                    return result
                await see_through(self._keep(event, failure, began), self._timeout, partial(self._lost, event, failure))
        except Exception as error:  # noqa: BLE001 - logged, and told by the result
            self._lost(event, failure, error)
            return _unkept(result)
        if self._acknowledge:
            hand_off(event)
            return Ack(status=202, attempts=result.attempts, elapsed=result.elapsed)
        return replace(result, dead_lettered=True)

    async def _keep(self, event: Event, error: DeliveryError, began: datetime) -> None:
        where, ended = self._destination, self._clock()
        letter = letter_of(event, error, direction="outbound", destination=where, began=began, ended=ended)
        await _keep(self._store, letter, error)
        self.counts["dead_lettered"] += 1

    def _lost(self, event: Event, failure: DeliveryError, error: Exception) -> None:
        self.counts["dead_letter_failed"] += 1
        both = ExceptionGroup("an event was not delivered, and not stored", [failure, error])
        log.error("lost by its sink, and by the dead-letter store: %s", name_of(event), exc_info=both)


def _unkept(result: Failure) -> Result:
    more = "and the dead-letter store did not take it"
    if isinstance(result, Nack):
        return replace(result, reason=f"{result.reason} ({more})")
    return replace(result, error=f"{result.error} ({more})")
