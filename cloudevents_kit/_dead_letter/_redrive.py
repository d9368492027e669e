"""The way back for dead letters: one is leased, sent, and removed only once it was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace

from cloudevents_kit._arguments import check_callable, check_count, check_flag, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, Sink, SyncHandler, as_handler, log, name_of, settle
from cloudevents_kit._dead_letter._reading import Choice, check_store, chooser, letters
from cloudevents_kit._event import Event
from cloudevents_kit._letters import DeadLetter, DeadLetterStore
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit._tasks import is_cancelled, run_bounded, see_through
from cloudevents_kit.stages._calls import called

Progress = Callable[["Redriven", DeadLetter, Result | None], Awaitable[object] | object]

_PART_OF_LEASE = 0.9
_STORE_SECONDS = 30.0


@dataclass(slots=True)
class Redriven:
    """What a redrive did, so far or in all."""

    dry_run: bool
    """Whether nothing was sent, and nothing changed."""
    selected: int = 0
    """Letters that were to be sent again."""
    delivered: int = 0
    """Letters that were acknowledged, and removed."""
    failed: int = 0
    """Letters that failed once more, and stay; those in `quarantined` included."""
    quarantined: int = 0
    """Letters that failed too often: redrives will leave them alone."""
    busy: int = 0
    """Letters that another redrive had, or that were gone."""
    overtaken: int = 0
    """Letters that were sent, but came back as dead letters meanwhile, or went to another redrive: they stay."""
    left_alone: int = 0
    """Letters that the filter chose, but that were quarantined before."""
    newer: int = 0
    """Letters that came after it began: they are for the next one."""
    seconds: float = 0.0
    """How long it took."""

    def __str__(self) -> str:
        """Tell it in one line."""
        if self.dry_run:
            return f"dry run: {self.selected} dead letters would be sent again, {self.left_alone} are quarantined"
        told = f"{self.selected} dead letters: {self.delivered} delivered, {self.failed} failed"
        for name in ("quarantined", "overtaken", "busy", "left_alone", "newer"):
            if found := getattr(self, name):
                told += f", {found} {name.replace('_', ' ')}"
        return f"{told}, in {self.seconds:.1f} s"


async def redrive(
    store: DeadLetterStore,
    filter: Choice | None = None,  # noqa: A002 - as above
    *,
    to: Sink | Handler | SyncHandler | None = None,
    dry_run: bool = True,
    rate: float | None = None,
    limit: int | None = None,
    attempts: int = 3,
    quarantined: bool = False,
    concurrency: int = 1,
    lease: float = 300.0,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Redriven:
    """Send dead letters again, each as the event it was, and remove those that are acknowledged.

    It goes through the letters that were there when it began, oldest first, each once. One that fails stays, with what
    went wrong; one that a crash cuts short stays, too, and is sent again once its lease is over. So an event may arrive
    twice, always with the same source and id. Raises what the store raises: then it was not all done.

    Args:
        store: where the letters are.
        filter: which ones: a filter of `cloudevents_kit.filters` for their events, or a function of the letter.
        to: a sink, or a handler; what went wrong should be mended first. A reply goes nowhere but to ``progress``.
            May be left out of a dry run.
        dry_run: True: only count what would be sent. Nothing is leased, sent or changed.
        rate: letters a second, at most.
        limit: letters to send, at most.
        attempts: a letter that fails, and has been in this many redrives, is quarantined: redrives leave it alone. So
            is, unsent, one that was in so many that came to no end: it may be what crashes them.
        quarantined: True: send quarantined letters, too.
        concurrency: letters on their way at once; with more than 1 they may arrive in another order.
        lease: seconds for which a letter is this redrive's; it gives up on delivering it shortly before.
        progress: called, and awaited, after each letter, with the report so far, the letter as it was sent, and its
            result (None in a dry run); what it raises ends the redrive.
        clock: for ``rate``, and the times in letters.
    """
    for name, flag in (("dry_run", dry_run), ("quarantined", quarantined)):
        check_flag(name, flag)
    for name, number in (
        ("attempts", attempts),
        ("concurrency", concurrency),
        ("limit", 1 if limit is None else limit),
    ):
        check_count(name, number)
    check_positive("lease", lease)
    if rate is not None:
        check_positive("rate", rate)
    if progress is not None:
        check_callable("progress", progress)
    check_store(store)
    if to is None and not dry_run:
        raise ValueError("to: must be given, or else where would the letters go")
    run = _Run(store, _way(to), Redriven(dry_run), progress, clock or SystemClock(), attempts, lease)
    began = run.clock.monotonic()
    chosen = _select(run, chooser(filter), None if dry_run else rate, limit, quarantined=quarantined)
    try:
        async with aclosing(chosen), aclosing(run_bounded(chosen, run.take, concurrency)) as ends:
            async for _ in ends:
                pass
    finally:
        run.report.seconds = run.clock.monotonic() - began
        log.info("redrive: %s", run.report)
    return run.report


#: Sends an event; returns its result, and for a handler what it raised.
_Way = Callable[[Event], Awaitable[tuple[Result, Exception | None]]]


def _way(to: Sink | Handler | SyncHandler | None) -> _Way:
    if (send := getattr(to, "send", None)) is not None:
        check_methods("to", to, "a Sink or a handler", "send")

        async def by_sink(event: Event) -> tuple[Result, Exception | None]:
            result = await called(send, event)
            if not isinstance(result, Ack | Nack | Undelivered):
                raise TypeError(f"a sink returned {type(result).__name__}, which is no result")
            return result, None

        return by_sink
    handler = as_handler(_nowhere if to is None else to)  # type: ignore[arg-type]  # it is no sink

    async def by_handler(event: Event) -> tuple[Result, Exception | None]:
        raised: list[Exception] = []

        async def watched(event: Event) -> Outcome:
            try:
                return await handler(event)
            except Exception as error:
                raised.append(error)
                raise

        return await settle(watched, event), raised[0] if raised else None

    return by_handler


async def _nowhere(_: object) -> None:
    """Stand in for what a dry run is not given."""


async def _select(
    run: _Run, fits: Callable[[DeadLetter], bool], rate: float | None, limit: int | None, *, quarantined: bool
) -> AsyncGenerator[DeadLetter]:
    """Yield what is to be sent, no faster than ``rate``."""
    report, began, due = run.report, run.clock.now(), run.clock.monotonic()
    async with aclosing(letters(run.store, fits)) as found:
        async for letter in found:
            if limit is not None and report.selected - report.busy >= limit:
                return
            if letter.first_at > began:  # it came of this very redrive, perhaps: there might be no end
                report.newer += 1
                continue
            if letter.quarantined and not quarantined:
                report.left_alone += 1
                continue
            if rate is not None:
                now = run.clock.monotonic()
                if due > now:
                    await run.clock.sleep(due - now)
                due = max(due, now) + 1 / rate
            report.selected += 1
            yield letter


@dataclass(frozen=True, slots=True)
class _Run:
    """One redrive."""

    store: DeadLetterStore
    way: _Way
    report: Redriven
    progress: Progress | None
    clock: Clock
    attempts: int
    lease: float

    async def take(self, letter: DeadLetter) -> None:
        """Send one letter and settle what becomes of it."""
        result: Result | None = None
        if not self.report.dry_run:
            until = asyncio.get_running_loop().time() + self.lease * _PART_OF_LEASE
            leased = await self._leased(letter.id)
            if leased is None:
                self.report.busy += 1
                return
            token, letter = leased
            result = await self._send(token, letter, until)
        if self.progress is not None:
            await called(self.progress, self.report, letter, result)

    async def _leased(self, id: str) -> tuple[str, DeadLetter] | None:
        """Lease a letter; give it back if this is cancelled meanwhile."""
        found: list[tuple[str, DeadLetter] | None] = []

        async def lease() -> None:
            found.append(await self.store.lease(id, self.lease))

        try:
            await see_through(lease(), _STORE_SECONDS, _unsettled)
        except asyncio.CancelledError:
            if found and found[0] is not None:
                await self._give_back(*found[0])
            raise
        return found[0]

    async def _give_back(self, token: str, letter: DeadLetter) -> None:
        """End a lease of which nothing came; that was not the letter's fault."""
        with suppress(Exception):  # else the lease runs out
            await self._settle(letter, token, replace(letter, redrives=letter.redrives - 1))

    async def _send(self, token: str, letter: DeadLetter, until: float) -> Result:
        if letter.unended >= self.attempts and not letter.quarantined:
            told = f"{letter.unended} redrives came to no end"
            log.warning("redrive: %s, so it is not sent: %s", told, name_of(letter.event))
            await self._failed(token, letter, replace(letter, possibly_delivered=True))
            return Undelivered(error=told, possibly_delivered=True)
        began = self.clock.now()
        result, raised = await self._try(token, letter, until)
        if isinstance(result, Ack):
            await self._delivered(token, letter)
        else:
            await self._failed(token, letter, letter.redriven(raised or result, began, self.clock.now()))
        return result

    async def _try(self, token: str, letter: DeadLetter, until: float) -> tuple[Result, Exception | None]:
        limit = asyncio.timeout_at(until)
        try:
            async with limit:
                return await self.way(letter.event)
        except asyncio.CancelledError as error:
            if not is_cancelled():
                return Undelivered(error=f"ended as if it had been cancelled ({error})", possibly_delivered=True), None
            await self._give_back(token, letter)
            raise
        except Exception as error:  # noqa: BLE001 - a sink should not raise; this letter failed, the rest may not
            if limit.expired():
                told = f"not done within {_PART_OF_LEASE:.0%} of the lease"
                return Undelivered(reason="timeout", error=told, possibly_delivered=True), None
            log.error("redrive: the sink raised: %s", name_of(letter.event), exc_info=error)
            return Undelivered(error=f"{type(error).__name__}: {error}", possibly_delivered=True), None

    async def _delivered(self, token: str, letter: DeadLetter) -> None:
        try:
            removed = await self._settle(letter, token, None)
        except Exception:
            log.error("redrive: delivered, but it may still be in the store: %s", name_of(letter.event))
            raise
        if removed:
            self.report.delivered += 1
        else:
            self._overtaken(letter)

    async def _failed(self, token: str, letter: DeadLetter, failed: DeadLetter) -> None:
        quarantined = letter.quarantined or letter.redrives >= self.attempts
        if not await self._settle(letter, token, replace(failed, quarantined=quarantined)):
            self._overtaken(letter)
            return
        self.report.failed += 1
        if quarantined:
            self.report.quarantined += 1
            log.warning("redrive: quarantined after %d: %s", letter.redrives, name_of(letter.event))

    def _overtaken(self, letter: DeadLetter) -> None:
        self.report.overtaken += 1
        log.warning("redrive: came back, or went to another redrive, meanwhile: %s", name_of(letter.event))

    async def _settle(self, letter: DeadLetter, token: str, into: DeadLetter | None) -> bool:
        return await see_through(self.store.settle(letter.id, token, into), _STORE_SECONDS, _unsettled)


def _unsettled(error: Exception) -> None:
    log.warning("redrive: a letter was not settled, its lease will run out", exc_info=error)
