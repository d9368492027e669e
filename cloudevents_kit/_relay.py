"""Sends what is in an outbox: leases events, hands them to a sink, and tells the store how that ended; see `outbox`.

One task leases, many send, one settles: each talks to the store about many events at once. What was leased of one key
is a chain, which one worker sends link by link. While a destination does not answer, one event at a time is sent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any, NamedTuple

from cloudevents_kit._attempts import Attempts
from cloudevents_kit._contract import log
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker
from cloudevents_kit._outage import Outage, Trouble
from cloudevents_kit._outbox_store import OutboxStore
from cloudevents_kit._result import Ack, Nack, Undelivered
from cloudevents_kit._retry import RetryPolicy, next_delay
from cloudevents_kit._sharing import begin_use, end_use
from cloudevents_kit._tasks import Tasks

_HURRY = 1.0  # seconds after an event was added for which the relay looks more often, until that is committed
_SOON = 0.02
_LAST_WORDS = 5.0
_LONGEST = 15.0  # seconds between two tries at a store that fails, unless its polls are farther apart
#: Parts of a lease: an event that has waited here for so long is not sent any more, a delivery is cut off, and what is
#: done with one that failed.
_TOO_OLD = 0.25
_CUT_OFF = 0.75
_TOO_LATE = 0.95


class _Leased(NamedTuple):
    token: str
    event: Event
    attempts: int
    since: float
    """From when on its lease lasts at least as long as is set."""


_Chain = deque[_Leased]


class Settings(NamedTuple):
    """How a relay works; see `outbox.Outbox`."""

    name: str
    """For logs."""
    batched: bool
    concurrency: int
    batch: int
    policy: RetryPolicy
    dead_letter: Taker | None
    lease: float
    poll: float
    grace: float


class Relay:
    """Sends what is in ``store`` to ``sink``, from `open` to `close`, once."""

    def __init__(self, store: OutboxStore, sink: Any, settings: Settings, counts: dict[str, int]) -> None:
        """Begin closed."""
        self._store, self._sink, self._counts = store, sink, counts
        self._name, self._batched, self._concurrency, self._batch, self._policy = settings[:5]
        dead_letter, self._lease, self._poll, self._grace = settings[5:]
        name = settings.name
        self._attempts = Attempts(name, sink, dead_letter, counts, batched=self._batched)
        self._outage = Outage(name, self._policy)
        longest = max(self._poll, min(_LONGEST, self._lease / 4))
        self._leases, self._settles = (Trouble(name, self._poll, longest, counts) for _ in range(2))
        self._most = self._batch
        """Events to lease at once: fewer if they wait here for too long."""
        self._are_stale = False
        self._reserve = 0.0
        """Seconds that are added to a lease, for what it takes the store to tell it."""
        self._at_work = 0
        self._hurry_until = 0.0
        self._news, self._room, self._ended, self._closing, self._over = (asyncio.Event() for _ in range(5))
        self._ready: deque[_Chain] = deque()
        self._waiting = 0
        """Events that are ready."""
        self._idle: deque[asyncio.Future[None]] = deque()
        self._ends: dict[str, tuple[int, float] | None] = {}
        self._workers, self._keepers = (
            Tasks(lambda error: log.error("%s: a task of the relay failed", name, exc_info=error)) for _ in range(2)
        )

    def open(self) -> None:
        """Begin."""
        begin_use(self._store, self, self._name, self._sink)
        self._loop = asyncio.get_running_loop()
        self._leasing = self._keepers.start(self._lease_all(), Context())
        self._settling = self._keepers.start(self._settle_all(), Context())
        self._senders = [self._workers.start(self._work(), Context()) for _ in range(self._concurrency)]

    def wake(self) -> None:
        """Look into the store now."""
        self._news.set()

    def hurry(self) -> None:
        """Look more often for a while: nobody tells when a transaction is committed. Can be called in any thread."""
        self._hurry_until = monotonic() + _HURRY
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self.wake)

    async def close(self) -> None:
        """End what is being sent; what is not sent by then stays in the store, and is due at once."""
        self._closing.set()
        self._news.set()
        self._room.set()
        try:
            await asyncio.wait({self._leasing}, timeout=_LAST_WORDS)
            self._let_go()
            await self._workers.close(self._grace)
        finally:  # also if this is cancelled
            self._let_go()
            try:
                await self._workers.close()
            finally:
                self._over.set()
                self._ended.set()
                end_use(self._store, self)
                await self._keepers.close(_LAST_WORDS)

    def _let_go(self) -> None:
        """Give back what no worker has begun, and let the idle ones end."""
        self._give_back_ready()
        while self._idle:
            self._call_worker()

    def _give_back_ready(self) -> None:
        for chain in self._ready:
            self._give_back(chain)
        self._ready.clear()
        self._waiting = 0

    def _give_back(self, these: Iterable[_Leased]) -> None:
        for leased in these:
            self._ends[leased.token] = leased.attempts, 0.0

    # Leasing.

    async def _lease_all(self) -> None:
        """Keep events ready for the workers."""
        while not self._closing.is_set():
            self._news.clear()
            self._room.clear()
            room, pause = self._space()
            if not room:
                await _wait(self._room, pause)
                continue
            found = 0
            # More ends than that are none that are being stored: what is sent meanwhile would be sent once more.
            if len(self._ends) <= self._batch:
                try:
                    found = await self._lease_some(room)
                except Exception as error:  # noqa: BLE001 - the next look may succeed
                    await _wait(self._closing, self._leases.failed("nothing can be leased", error))
                    continue
                self._leases.worked()
            if not found and not self._closing.is_set():
                await self._rest()

    def _space(self) -> tuple[int, float | None]:
        """Return how many events to lease; if none, after how many seconds to look again if nothing happens here."""
        if self._outage.is_on:
            if self._at_work or self._ready:
                return 0, None
            pause = self._outage.left
            return (0, pause) if pause else (1, None)
        room = self._most - self._waiting
        return (room if room * 2 >= self._most else 0), None

    async def _lease_some(self, most: int) -> int:
        # If the answer comes late, not much of the lease is left: the next one is asked for with more time in reserve.
        began, reserve = monotonic(), self._reserve
        chains: dict[object, _Chain] = {}
        found = await self._store.lease(most, self._lease + reserve)
        self._reserve = max(2 * (monotonic() - began), reserve / 2)
        for token, event, attempts, key in found:
            chain = chains.setdefault((token,) if key is None else key, deque())
            chain.append(_Leased(token, event, attempts, began + reserve))
        if self._closing.is_set():
            for chain in chains.values():
                self._give_back(chain)
            return 0
        self._most = max(1, self._most // 2) if self._are_stale else min(self._batch, self._most * 2)
        self._are_stale = False
        if self._outage.is_on:
            self._outage.probe()
        self._waiting += len(found)
        self._ready += chains.values()
        for _ in chains:
            self._call_worker()
        return len(found)

    async def _rest(self) -> None:
        seconds = min(self._poll, _SOON) if monotonic() < self._hurry_until else self._poll
        await _wait(self._news, seconds)

    def _call_worker(self) -> None:
        if self._idle:
            with suppress(asyncio.InvalidStateError):  # of one that was cancelled
                self._idle.popleft().set_result(None)

    # Sending.

    async def _work(self) -> None:
        while not self._closing.is_set():
            if self._ready:
                await self._send(self._take())
            else:
                future = self._loop.create_future()
                self._idle.append(future)
                await future

    def _take(self) -> list[_Chain]:
        """Return what one worker sends: a chain, or, batched, many, the first links of which make up a batch."""
        chains: list[_Chain] = []
        while self._ready and len(chains) < (self._batch if self._batched else 1):
            chains.append(self._ready.popleft())
            self._waiting -= len(chains[-1])
        if self._waiting * 2 <= self._most:
            self._room.set()
        return chains

    async def _send(self, chains: list[_Chain]) -> None:
        """Send link by link, and note how each ended; what is left, whatever the reason, is due again at once."""
        going = chains
        self._at_work += 1
        try:
            while going := [chain for chain in going if chain and self._is_fresh(chain[0])]:
                left = self._left(going[0][0], _CUT_OFF)
                results = await self._attempts.send([chain[0].event for chain in going], left)
                failed: list[tuple[_Chain, Nack | Undelivered]] = []
                for chain, result in zip(going, results, strict=True):
                    if self._outage.learn(result):
                        self._give_back_ready()
                        self._room.set()
                    if isinstance(result, Ack):
                        self._counts["sent"] += 1
                        self._ends[chain.popleft().token] = None
                    else:
                        failed.append((chain, result))
                self._ended.set()
                for chain, result in failed:
                    await self._fail(chain, result)
        finally:
            self._at_work -= 1
            for chain in chains:
                self._give_back(chain)
            self._ended.set()
            if self._outage.is_on:
                self._room.set()

    def _is_fresh(self, leased: _Leased) -> bool:
        is_stale = self._left(leased, _TOO_OLD) <= 0
        self._are_stale |= is_stale
        return not self._closing.is_set() and not is_stale

    def _left(self, leased: _Leased, part: float) -> float:
        """Return the seconds until so much of a lease has passed."""
        return leased.since + self._lease * part - monotonic()

    async def _fail(self, chain: _Chain, result: Nack | Undelivered) -> None:
        """Note that the first link failed; if it is to be tried again, those behind it wait for it.

        One that the sink has stored as a dead letter itself has its end, whatever the policy says.
        """
        leased = chain[0]
        attempts = leased.attempts + 1
        self._counts["failed"] += 1
        is_over, delay = result.dead_lettered, next_delay(self._policy, attempts, result, chance=self._policy.chance())
        if delay is None and not is_over:
            left = self._left(leased, _TOO_LATE)
            if left <= 0:
                return  # those before it took so long: it is sent, and fails, once more
            is_over = await self._attempts.bury(leased.event, attempts, result, left)
        if is_over:
            self._counts["dead_lettered"] += 1
            self._ends[chain.popleft().token] = None
            return
        self._ends[chain.popleft().token] = attempts, self._policy.max_delay if delay is None else delay
        self._give_back(chain)
        chain.clear()

    # Settling.

    async def _settle_all(self) -> None:
        """Tell the store how attempts ended, many at once; what it cannot be told in the end is sent again."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            while self._ends:
                ends, self._ends = self._ends, {}
                try:
                    await self._store.settle(ends)
                except Exception as error:  # noqa: BLE001 - the next time may succeed; else their leases run out
                    pause = self._settles.failed(f"{len(ends)} ends were not stored", error)
                    self._ends = ends | self._ends
                    if self._over.is_set():
                        return
                    await _wait(self._over, pause)
                    continue
                self._settles.worked()
                self._news.set()  # what is behind them may be due
            if self._over.is_set():
                return


async def _wait(event: asyncio.Event, seconds: float | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
