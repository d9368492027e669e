"""Handles events of one key one after the other, in the order in which they came, and different keys in parallel.

Each event runs in the task of its own caller, which waits for its turn. A key that nobody waits for takes no memory.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from time import perf_counter
from typing import Literal

from cloudevents_kit._arguments import check_callable, check_count, check_not_negative, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, log, name_of, verdict
from cloudevents_kit._errors import Retry
from cloudevents_kit._event import Event
from cloudevents_kit.stages._holding import Key, key_of, order_key
from cloudevents_kit.stages._stage import Stage

OnFailure = Callable[[Event, Exception], Awaitable[object] | object]
_Id = tuple[str, str]
_CLOCK = SystemClock()
_SPARE = 100


class _Line:
    """The events of one key."""

    __slots__ = ("busy", "failed", "missing", "waiting")

    def __init__(self) -> None:
        self.busy = True
        self.waiting: dict[asyncio.Future[bool], _Id] = {}
        #: Events that were sent back and must come again before any other, in order, and when they were last seen.
        self.missing: dict[_Id, float] = {}
        self.failed: tuple[_Id, float] | None = None  # the event that failed last, and when it did so first


class Order(Stage):
    """Use `order`."""

    kind = "order"

    def __init__(
        self,
        *,
        key: Key,
        on_failure: str | OnFailure,
        block_timeout: float,
        retry_after: float,
        max_waiting_per_key: int,
        max_keys: int,
        clock: Clock,
        name: str | None,
    ) -> None:
        super().__init__(name)
        check_callable("key", key)
        if on_failure not in {"block", "skip"}:
            if isinstance(on_failure, str):
                raise ValueError(f"on_failure: must be 'block', 'skip' or a function, not {on_failure!r}")
            check_callable("on_failure", on_failure)
        check_positive("block_timeout", block_timeout)
        check_not_negative("retry_after", retry_after)
        check_count("max_waiting_per_key", max_waiting_per_key)
        check_count("max_keys", max_keys)
        self._key, self._on_failure = key, on_failure
        self._block_timeout, self._retry_after = block_timeout, retry_after
        self._max_waiting, self._max_keys, self._clock = max_waiting_per_key, max_keys, clock
        self._lines: dict[Hashable, _Line] = {}
        self._spare: list[_Line] = []  # as good as new, and cheaper
        #: The keys that may be blocked, and when one of their events was last seen, longest ago first.
        self._blocked: OrderedDict[Hashable, float] = OrderedDict()

    @property
    def parameters(self) -> Mapping[str, object]:
        return {
            "on_failure": self._on_failure if isinstance(self._on_failure, str) else "function",
            "block_timeout": self._block_timeout,
            "retry_after": self._retry_after,
            "max_waiting_per_key": self._max_waiting,
            "max_keys": self._max_keys,
        }

    @property
    def status(self) -> Mapping[str, object]:
        return {**super().status, "keys": len(self._lines), "blocked_keys": len(self.blocked)}

    @property
    def blocked(self) -> Mapping[Hashable, tuple[str, str]]:
        """The keys that are blocked, each with the (source, id) of the event that must come first."""
        waits_for = {key: next(iter(self._lines[key].missing), None) for key in self._blocked}
        return {key: first for key, first in waits_for.items() if first is not None and not self._lines[key].busy}

    def release(self, key: Hashable) -> bool:
        """Let ``key`` go on without the events that it waits for; tell whether it was blocked."""
        if key not in self._blocked:
            return False
        del self._blocked[key]
        line = self._lines[key]
        self.counts["given_up"] += len(line.missing)
        line.missing.clear()
        if not line.busy:
            del self._lines[key]
        return True

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        key = key_of(self, self._key, event)
        if key is None:
            return await call_next(event)
        line = self._lines.get(key)
        if line is None and len(self._lines) < self._max_keys:
            line = self._lines[key] = self._spare.pop() if self._spare else _Line()
        else:
            line = await self._turn(key, event)
        began = perf_counter()
        done = False  # whether this event need not come again
        try:
            outcome = await call_next(event)
            done = True
            return outcome
        except Exception as error:
            done = not verdict(error, event).retryable
            if not callable(self._on_failure):
                raise
            return await self._hand_over(self._on_failure, event, error, began)
        finally:
            if not done and self._on_failure == "block":
                self._block(key, line, event)
            self._pass_on(key, line)

    async def _turn(self, key: Hashable, event: Event) -> _Line:
        """Wait until it is the turn of ``event``. Raises Retry if that is not to be."""
        now = self._clock.monotonic()
        self._sweep(now)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= self._max_keys:
                raise self._refusal("too many keys at once", 503)
            line = self._lines[key] = _Line()
            return line
        if len(line.waiting) >= self._max_waiting:
            raise self._refusal("too many events of this key are waiting", 409)
        if not self._comes_next(line, event.key, now):
            self._remember(key, line, event.key, now)
            raise self._refusal("an earlier event of this key comes first", 409)
        if line.busy:
            await self._wait(key, line, event.key)
        line.busy = True
        return line

    async def _wait(self, key: Hashable, line: _Line, identity: _Id) -> None:
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        line.waiting[future] = identity
        try:
            mine = await future
        except asyncio.CancelledError:
            line.waiting.pop(future, None)
            if not future.cancelled() and future.result():
                self._pass_on(key, line)  # it was just this one's turn
            raise
        if not mine:
            raise self._refusal("an earlier event of this key comes first", 409)

    def _comes_next(self, line: _Line, identity: _Id, now: float) -> bool:
        """Tell whether nothing is missing before the event; what has been missing for too long no longer counts."""
        while line.missing:
            first, seen = next(iter(line.missing.items()))
            since = line.failed[1] if line.failed is not None and line.failed[0] == first else seen
            if first != identity and now < since + self._block_timeout:
                return False
            del line.missing[first]
            if first == identity:
                return True
            self.counts["given_up"] += 1
            log.warning("stage %s: goes on without an event that did not come again: id=%r", self.name, first[1])
        return True

    def _remember(self, key: Hashable, line: _Line, identity: _Id, now: float) -> None:
        """Note that an event was sent back, and where in the line it belongs."""
        if identity in line.missing or len(line.missing) < self._max_waiting:
            line.missing[identity] = now
        self._blocked[key] = now
        self._blocked.move_to_end(key)

    def _block(self, key: Hashable, line: _Line, event: Event) -> None:
        """Send back all that wait: ``event`` must be done first, and then they, in their order."""
        now = self._clock.monotonic()
        if line.failed is None or line.failed[0] != event.key:
            line.failed = (event.key, now)
        later = line.missing
        line.missing = {}
        for identity in (event.key, *line.waiting.values()):
            self._remember(key, line, identity, now)
        for identity, seen in later.items():
            if len(line.missing) < self._max_waiting:
                line.missing.setdefault(identity, seen)
        for future in line.waiting:
            if not future.done():
                future.set_result(False)
        line.waiting.clear()
        self.counts["blocked"] += 1

    def _pass_on(self, key: Hashable, line: _Line) -> None:
        """Let the next event of ``key`` run."""
        while line.waiting:
            future = next(iter(line.waiting))
            del line.waiting[future]
            if not future.done():
                future.set_result(True)
                return
        if line.missing:
            line.busy = False
            return
        del self._lines[key]
        self._blocked.pop(key, None)
        if len(self._spare) < _SPARE:
            line.failed = None
            self._spare.append(line)

    def _sweep(self, now: float) -> None:
        """Forget the keys of which no event has come for so long that nothing is waited for any more."""
        while self._blocked:
            key, seen = next(iter(self._blocked.items()))
            if now < seen + self._block_timeout:
                return
            self.release(key)

    async def _hand_over(self, hook: OnFailure, event: Event, error: Exception, began: float) -> Outcome:
        try:
            taken = hook(event, error)
            if inspect.isawaitable(taken):
                await taken
        except Exception as second:  # noqa: BLE001 - it is told with the first
            both = ExceptionGroup("an event failed, and so did handing it over", [error, second])
            raise self.failure(both, event, began) from both
        log.warning("stage %s: failed and handed over: %s", self.name, name_of(event), exc_info=error)
        self.note("dead_lettered")
        return None

    def _refusal(self, why: str, status: int) -> Retry:
        # 409 concerns this event alone; a sender that gets a 503 would hold back everything.
        self.counts["refused"] += 1
        return Retry(self._retry_after, f"{why} ({self.name})", status)


def order(
    *,
    key: Key = order_key,
    on_failure: Literal["block", "skip"] | OnFailure = "skip",
    block_timeout: float = 60.0,
    retry_after: float = 1.0,
    max_waiting_per_key: int = 100,
    max_keys: int = 10_000,
    clock: Clock = _CLOCK,
    name: str | None = None,
) -> Order:
    """Handle the events of one key one after the other, in the order in which they come.

    Args:
        key: tells which events belong together; None is for those that need no order. By default partitionkey, or
            else source and subject.
        on_failure: what happens to the events behind one that fails. ``skip``: they go on. ``block``: they are
            answered 409 until the failed one has come again and was handled, or was refused for good, and then go on
            in their order. A function is called with the event and the error; when it has returned, the event is
            acknowledged and the next one goes on.
        block_timeout: seconds that a key waits for an event to come again or, if it comes, to be handled in the end.
        retry_after: seconds after which refused events are to be sent again.
        max_waiting_per_key: events that wait for their turn, and blocked ones whose order is remembered; more of them
            are answered 409.
        max_keys: keys that have events, or are blocked; events of more are answered 503.
        clock: for ``block_timeout``.
        name: for people and metrics.
    """
    return Order(
        key=key,
        on_failure=on_failure,
        block_timeout=block_timeout,
        retry_after=retry_after,
        max_waiting_per_key=max_waiting_per_key,
        max_keys=max_keys,
        clock=clock,
        name=name,
    )
