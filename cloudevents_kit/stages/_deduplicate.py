"""Each event is handled once, however often it comes: claim its key, run, then commit what came of it, or release.

A key is claimed in one atomic step before the handler runs, so that of any number of copies at once one is handled;
and it is committed only after the handler is done, so that a failure or a crash leaves the event to be sent again.
This is "at least once, and duplicates are caught within the ttl", not "exactly once": a process that dies between the
end of the handler and the commit has the event handled again.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from itertools import count
from math import inf
from time import perf_counter
from typing import Any, Literal

from cloudevents_kit._arguments import check_choice, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, handovers, log, name_of, was_handed_off
from cloudevents_kit._deadline import Deadlines
from cloudevents_kit._errors import Refusal, Retry, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._lifecycle import walk
from cloudevents_kit._sharing import begin_use, end_use
from cloudevents_kit._tasks import Tasks
from cloudevents_kit.stages._calls import check_plain, ends_task
from cloudevents_kit.stages._claims import DedupeStore, Found, Waiting
from cloudevents_kit.stages._memo import Lifetimes, identity, pack, safe_key, unpack
from cloudevents_kit.stages._seldom import Seldom
from cloudevents_kit.stages._stage import Stage
from cloudevents_kit.stores.memory import MemoryDedupeStore

Key = Callable[[Event], str | None]


#: Seconds after which a copy of an event that is being handled may come again, if its claim does not end before.
_SOON = 1.0


class _Claim:
    """A claim in a store, for one event."""

    __slots__ = ("event", "key", "lapsed", "token")

    def __init__(self, key: str, token: str, event: Event) -> None:
        self.key = key
        self.token = token
        self.event = event
        self.lapsed = False


class _Deduplicate(Stage):
    kind = "deduplicate"

    def __init__(
        self,
        store: DedupeStore,
        name: str | None,
        *,
        key: Key | None,
        ttl: float | Mapping[str, float],
        lease: float,
        when_running: str,
        max_wait: float,
        on_store_error: str,
        store_timeout: float,
        clock: Clock,
    ) -> None:
        super().__init__(name)
        check_methods("store", store, "a DedupeStore", "claim", "commit", "release")
        if key is not None:
            check_plain("key", key)
        for argument, seconds in (("lease", lease), ("max_wait", max_wait), ("store_timeout", store_timeout)):
            check_positive(argument, seconds)
        check_choice("when_running", when_running, ("conflict", "wait"))
        check_choice("on_store_error", on_store_error, ("refuse", "process"))
        self._store = store
        self._key = key
        self._ttl = Lifetimes(ttl)
        self._lease = lease
        self._waiting = Waiting(max_wait if when_running == "wait" else 0.0)
        self._fail_closed = on_store_error == "refuse"
        self._limit = Deadlines(store_timeout)
        self._users = 0
        self._followers: list[Handler] = []
        self._tasks = Tasks(log.error)
        self._trouble = Seldom(clock)
        self._owner, self._numbers = os.urandom(12).hex(), count()

    @property
    def parameters(self) -> Mapping[str, object]:
        return {
            "store": type(self._store).__name__,
            "ttl": self._ttl.given,
            "lease": self._lease,
            "when_running": "wait" if self._waiting.most else "conflict",
            "on_store_error": "refuse" if self._fail_closed else "process",
        }

    async def __aenter__(self) -> None:
        """Count the chains that use this stage, and warn of those in which events would be lost to somebody."""
        if not self._users:
            self._begin_use()
            if any(getattr(part, "takes_over", False) for part in walk(*self._followers)):
                log.warning(
                    "stage %s: outside of a queue with a store it takes an event for done once that is stored, so that "
                    "a redrive, or what wakes a parked event, does not get through: put it inside of the queue",
                    self.name,
                )
        self._users += 1

    async def __aexit__(self, *_: object) -> None:
        """Let go of what cancelled events have claimed, when the last chain has left."""
        self._users -= 1
        if self._users:
            return
        end_use(self._store, self)
        tasks, self._tasks = self._tasks, Tasks(log.error)  # whoever opens it meanwhile has tasks of his own
        await tasks.close(2 * self._limit.seconds)
        if not self._users:
            self._limit.close()

    def _begin_use(self) -> None:
        if self._followers:  # else it is part of no chain
            begin_use(self._store, self, f"stage {self.name}", self._followers[0])

    # Which events are the same.

    def _key_of(self, event: Event) -> str | None:
        if self._key is None:
            return identity(event)
        began = perf_counter()
        try:
            key = self._key(event)
            if key is not None:
                return safe_key(key)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError
            raise self.failure(error, event, began) from cause_of(error)
        self.counts["unkeyed"] += 1
        return None

    # With the store in this process nothing needs to be awaited, and no lease can run out while its event is handled.

    def bind(self, call_next: Handler) -> Handler:
        self._followers = [*self._followers[:1], call_next]  # a stage may be used for each event anew
        self._begin_use()
        if type(self._store) is not MemoryDedupeStore:
            return super().bind(call_next)
        take, keep, drop = self._store.take, self._store.keep, self._store.drop
        key_of = identity if self._key is None else self._key_of
        ttl, same, waiting = self._ttl, self._ttl.same, self._waiting.by_key

        async def guarded(event: Event) -> Outcome:
            key = key_of(event)
            if key is None:
                return await call_next(event)
            token = object()
            found = take(key, token, inf)
            if found is not None:
                found = await self._wait(key, found, lambda: _soon(take(key, token, inf)))
                if found is not None:
                    return self._elsewhere(found, event)
            since = handovers[0]
            try:
                outcome = await call_next(event)
                if since != handovers[0] and self._is_handed_off(event, since):
                    drop(key, token)
                else:
                    keep(key, token, b"" if outcome is None else pack(outcome, event), same or ttl.of(event))
            except BaseException:
                drop(key, token)
                raise
            finally:
                if waiting:
                    self._waiting.wake(key)
            return outcome

        return guarded

    # With any other store.

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        key = self._key_of(event)
        if key is None:
            return await call_next(event)
        claim = _Claim(key, f"{self._owner}-{next(self._numbers)}", event)
        try:
            found = await self._wait(key, await self._ask(claim), lambda: self._ask(claim))
        except asyncio.CancelledError:  # the claim may have been made
            await self._see_through(self._release(claim))
            raise
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            _ = self._tasks.start(self._release(claim))  # it may have been made, and its answer lost
            self._go_unguarded(error)
            return await call_next(event)
        if found is not None:
            return self._elsewhere(found, event)
        return await self._handle(claim, call_next)

    async def _ask(self, claim: _Claim) -> Found:
        with self._limit:
            return await self._store.claim(claim.key, claim.token, self._lease)

    def _go_unguarded(self, error: Exception) -> None:
        self.counts["store_errors"] += 1
        self._trouble.warn(f"stage {self.name}: the store failed", error)
        if self._fail_closed:
            self.counts["refused"] += 1
            raise Retry(reason="duplicates cannot be told at the moment") from error
        self.counts["unguarded"] += 1

    async def _handle(self, claim: _Claim, call_next: Handler) -> Outcome:
        since = handovers[0]
        try:
            outcome = await self._renewing(claim, call_next)
            packed = pack(outcome, claim.event)
        except (Exception, asyncio.CancelledError):
            await self._see_through(self._release(claim))
            raise
        if since != handovers[0] and self._is_handed_off(claim.event, since):
            await self._see_through(self._release(claim))
            return outcome
        try:
            failed = await self._commit(claim, packed)
        except asyncio.CancelledError:  # the event is handled, and the commit may have been made
            await self._see_through(self._commit(claim, packed, again=True))
            raise
        if failed is not None and self._fail_closed:
            self.counts["refused"] += 1
            raise Retry(reason="that the event was handled could not be kept") from failed
        return outcome

    async def _renewing(self, claim: _Claim, call_next: Handler) -> Outcome:
        """Handle the event; if that takes long, extend its claim again and again."""
        renewal: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal renewal
            renewal = self._tasks.start(self._renew(claim))

        timer = asyncio.get_running_loop().call_later(self._lease / 3, begin)
        try:
            return await call_next(claim.event)
        finally:
            timer.cancel()
            if renewal is not None:  # it must not claim again what is about to be released
                renewal.cancel()
                await asyncio.wait((renewal,))

    async def _renew(self, claim: _Claim) -> None:
        while not claim.lapsed:
            try:
                if await self._ask(claim) is not None:
                    self._lapse(claim)
            except BaseException as error:
                if ends_task(error):
                    raise
                # the claim may outlive it
                self.counts["store_errors"] += 1
                self._trouble.warn(f"stage {self.name}: a lease could not be extended", error)
            await asyncio.sleep(self._lease / 3)

    def _lapse(self, claim: _Claim) -> None:
        """Report that somebody else took the event over while it was being handled here."""
        if not claim.lapsed:
            claim.lapsed = True
            self.counts["lapsed"] += 1
            log.warning("stage %s: the lease ran out, others handle it too: %s", self.name, name_of(claim.event))

    async def _commit(self, claim: _Claim, packed: bytes, *, again: bool = False) -> Exception | None:
        """Commit, or return the error that was in the way; then the event is free to be sent again."""
        try:
            with self._limit:
                kept = await self._store.commit(claim.key, claim.token, packed, self._ttl.of(claim.event))
        except Exception as error:  # noqa: BLE001 - whatever a store raises
            self.counts["uncommitted"] += 1
            log.error("stage %s: handled, but not kept as such: %s", self.name, name_of(claim.event), exc_info=error)
            await self._see_through(self._release(claim))
            return error
        self._waiting.wake(claim.key)
        if not kept and not again:
            self._lapse(claim)
        return None

    async def _release(self, claim: _Claim) -> None:
        try:
            with self._limit:
                await self._store.release(claim.key, claim.token)
        except Exception as error:  # noqa: BLE001 - whatever a store raises; the claim ends with its lease
            self.counts["unreleased"] += 1
            self._trouble.warn(f"stage {self.name}: a claim could not be released", error)
        finally:
            self._waiting.wake(claim.key)

    async def _see_through(self, work: Coroutine[Any, Any, object]) -> None:
        """Wait for ``work``, which goes on if this task is cancelled (again)."""
        await asyncio.shield(self._tasks.start(work))

    def _is_handed_off(self, event: Event, since: int) -> bool:
        """Tell whether the event ended as a dead letter, or the like: then it is not done, and may come again."""
        if handed_off := was_handed_off(event, since):
            self.counts["handed_over"] += 1
        return handed_off

    # What is handled by somebody else, or was.

    async def _wait(self, key: str, found: Found, claim: Callable[[], Awaitable[Found]]) -> Found:
        """Wait for whoever has the key, if that is wanted, and return what the last claim found."""
        if not self._waiting.most or found is None or isinstance(found, bytes):
            return found
        self.counts["waited"] += 1
        return await self._waiting.wait(key, found, claim)

    def _elsewhere(self, found: bytes | float, event: Event) -> Outcome:
        """Answer a copy with the outcome of the original, or that it is to come again."""
        if not isinstance(found, bytes):
            self.counts["conflict"] += 1
            raise Retry(min(found, _SOON), "this event is being handled", 409)
        began = perf_counter()
        try:
            outcome = unpack(found)
        except Exception as error:
            raise self.failure(error, event, began) from error
        self.note("duplicate")
        return outcome


async def _soon(found: Found) -> Found:
    return found


def deduplicate(
    store: DedupeStore | None = None,
    *,
    key: Callable[[Event], str | None] | None = None,
    ttl: float | Mapping[str, float] = 86400.0,
    lease: float = 30.0,
    when_running: Literal["conflict", "wait"] = "conflict",
    max_wait: float = 30.0,
    on_store_error: Literal["refuse", "process"] = "refuse",
    store_timeout: float = 2.0,
    clock: Clock | None = None,
    name: str | None = None,
) -> Stage:
    """Handle each event once: copies of one that is done get its outcome again, counted as ``duplicate``.

    An event whose handling fails, is refused or is cancelled is free to be sent again, and so is one that ended as a
    dead letter, or was taken by a hook of `on_error`, which is counted as ``handed_over``. It is acknowledged only
    after the store knows that it is done: if that fails, the answer is 503, and the handler may run a second time.

    Args:
        store: where keys are kept; for one handler only: others need one, or a scope, of their own. By default
            in the memory of this process (`stores.memory.MemoryDedupeStore`), which forgets at a restart.
            Whoever makes a store opens and closes it.
        key: makes the text by which copies are told; None: this event has no copies. By default (source, id).
        ttl: seconds for which a finished event is remembered, or a mapping of types, or prefixes such as
            ``com.example.*``, to seconds; a type that is not in it is remembered for a day.
        lease: seconds after which an event is free again if the process that handles it has died. While it lives, the
            lease is extended, however long the handler takes. One that runs out all the same, because the store was
            away, is counted as ``lapsed``; then a copy may be handled at the same time.
        when_running: what a copy of an event that is being handled gets: 409 with Retry-After, or, with ``"wait"``,
            the outcome once there is one; after ``max_wait`` seconds 409.
        max_wait: how long a copy waits.
        on_store_error: if the store cannot be asked, ``"refuse"`` answers 503, and ``"process"`` handles the event, be
            it a duplicate or not, counted as ``unguarded``. With it, an event is also acknowledged if it was handled
            and could not be committed. Either way this is counted as ``uncommitted`` and logged.
        store_timeout: seconds after which a call of the store has failed.
        clock: tells the default store when keys expire.
        name: name of the stage.
    """
    clock = clock or SystemClock()
    return _Deduplicate(
        MemoryDedupeStore(clock=clock) if store is None else store,
        name,
        key=key,
        ttl=ttl,
        lease=lease,
        when_running=when_running,
        max_wait=max_wait,
        on_store_error=on_store_error,
        store_timeout=store_timeout,
        clock=clock,
    )
