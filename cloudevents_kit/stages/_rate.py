"""The rate limit: so many events per second, by the generic cell rate algorithm.

An account is one number, the time at which it will be even: each event moves it on by one interval, and may pass while
it is at most ``burst - 1`` intervals ahead of the clock. An account that is even need not be remembered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from math import inf
from typing import Literal

from cloudevents_kit._arguments import check_choice, check_count, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome
from cloudevents_kit._event import Event
from cloudevents_kit.stages._calls import check_plain
from cloudevents_kit.stages._keys import Key, key_of
from cloudevents_kit.stages._stage import Stage, Withheld

_SYSTEM = SystemClock()
#: Sums of floats may miss each other by less than this.
_HAIR = 1e-6
#: Timers ring a little late. Up to this much, the next event need not wait for it as well.
_LATE = 0.01


class _Queue:
    """The events that wait for one account, in the order of their coming. Only the first one looks at the clock."""

    __slots__ = ("even", "turns")

    def __init__(self, even: float) -> None:
        self.even = even
        self.turns: deque[asyncio.Future[None]] = deque()


class _RateLimit(Stage):
    kind = "rate_limit"

    def __init__(
        self,
        rate: float,
        *,
        burst: int,
        mode: Literal["wait", "refuse"],
        key: Key | None,
        max_keys: int,
        max_waiting: int,
        clock: Clock,
        name: str | None,
    ) -> None:
        check_positive("rate", rate)
        check_count("burst", burst)
        check_choice("mode", mode, ("wait", "refuse"))
        if key is not None:
            check_plain("key", key)
        check_count("max_keys", max_keys)
        check_count("max_waiting", max_waiting, least=0)
        check_methods("clock", clock, "a Clock", "monotonic", "now", "sleep")
        super().__init__(name)
        self._settings = {"rate": rate, "burst": burst, "mode": mode, "per_key": key is not None, "max_keys": max_keys}
        self._interval = 1 / rate
        self._ahead = (burst - 1) / rate
        self._key = key
        self._max_keys = max_keys
        self._max_waiting = max_waiting if mode == "wait" else 0
        self._clock = clock
        self._even: OrderedDict[Hashable, float] = OrderedDict()  # used longest ago first
        self._queues: dict[Hashable, _Queue] = {}

    @property
    def parameters(self) -> Mapping[str, object]:
        return {**self._settings, "max_waiting": self._max_waiting}

    @property
    def status(self) -> Mapping[str, object]:
        waiting = sum(len(queue.turns) for queue in self._queues.values())
        return {**self.counts, "waiting": waiting, "keys": len(self._even) + len(self._queues)}

    def bind(self, call_next: Handler) -> Handler:
        accounts, queues, clock, interval = self._even, self._queues, self._clock.monotonic, self._interval
        ahead = self._ahead + _HAIR
        find = self._key

        async def limited(event: Event) -> Outcome:
            key = None if find is None else key_of(self, find, event)
            now = clock()
            even = accounts.get(key, -inf)
            if even - now > ahead or (queues and key in queues):
                await self._wait(key, now)
            else:
                accounts[key] = max(now, even) + interval
                if find is not None:
                    self._used(key)
            return await call_next(event)

        return limited

    def _used(self, key: Hashable) -> None:
        self._even.move_to_end(key)
        if len(self._even) > self._max_keys:
            self._even.popitem(last=False)

    async def _wait(self, key: Hashable, now: float) -> None:
        """Wait until it is this event's turn. Raises Withheld if too many wait."""
        queue = self._queues.get(key)
        ahead_of_it = len(queue.turns) if queue is not None else 0
        even = queue.even if queue is not None else self._even[key]
        if ahead_of_it >= self._max_waiting or (queue is None and len(self._queues) >= self._max_keys):
            self.note("refused")
            first = max(0.0, even - self._ahead - now)  # it may be late already
            after = first + ahead_of_it * self._interval
            raise Withheld(after, f"too many events ({self.name})", 429)
        if queue is None:
            queue = self._queues[key] = _Queue(self._even.pop(key))
        self.counts["waited"] += 1
        turn = asyncio.get_running_loop().create_future()
        queue.turns.append(turn)
        try:
            if ahead_of_it:
                await turn
            await self._sleep(queue)
        finally:  # a place that was not used, because it was cancelled, falls to the next one
            self._go(key, queue, turn)

    async def _sleep(self, queue: _Queue) -> None:
        while (left := queue.even - self._ahead - self._clock.monotonic()) > _HAIR:
            await self._clock.sleep(left)
        late = self._clock.monotonic() - min(self._interval, _LATE)
        queue.even = max(queue.even, late) + self._interval

    def _go(self, key: Hashable, queue: _Queue, turn: asyncio.Future[None]) -> None:
        """Leave the queue, and tell the first one in it that it is the first."""
        queue.turns.remove(turn)
        if not queue.turns:
            del self._queues[key]
            self._even[key] = queue.even
            self._used(key)
        elif not queue.turns[0].done():  # else it knows, or has been cancelled and tells the next one
            queue.turns[0].set_result(None)


def rate_limit(
    rate: float,
    *,
    burst: int = 1,
    mode: Literal["wait", "refuse"] = "wait",
    key: Key | None = None,
    max_keys: int = 10_000,
    max_waiting: int = 1000,
    clock: Clock = _SYSTEM,
    name: str | None = None,
) -> Stage:
    """Let ``rate`` events per second pass, and after a pause up to ``burst`` at once.

    The others wait for their turn, first come, first served, up to ``max_waiting`` of them for each key; more, and with
    ``mode="refuse"`` all of them, are answered 429 with the time after which one will pass, and counted as
    ``refused``.

    ``key``, a plain function, gives each of its values an account of its own; a list or an object is answered 422. At
    most ``max_keys`` are remembered; those that passed an event longest ago are forgotten first.
    """
    return _RateLimit(
        rate,
        burst=burst,
        mode=mode,
        key=key,
        max_keys=max_keys,
        max_waiting=max_waiting,
        clock=clock,
        name=name,
    )
