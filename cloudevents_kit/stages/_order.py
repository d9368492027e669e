"""Handles events of one key one after the other, in the order in which they came, and different keys in parallel.

Each event runs in the task of its own caller, which waits for its turn. A key that nobody waits for takes no memory.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Literal, Self, TypeGuard

from cloudevents_kit._arguments import check_callable, check_count, check_not_negative, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, current_event, hand_off, log, name_of, request_headers, verdict
from cloudevents_kit._event import Event
from cloudevents_kit.stages._calls import called, check_plain
from cloudevents_kit.stages._keys import Key, key_of, order_key
from cloudevents_kit.stages._stage import Stage, Withheld

OnFailure = Callable[[Event, Exception], Awaitable[object] | object]
_Id = tuple[str, str]
_Turn = asyncio.Future[bool]  # True: it has come; False: it will not
_CLOCK = SystemClock()
_SPARE = 100

#: The request of which an event was held in vain: to hold the others of its batch, too, would take ever so long.
_held_in_vain: ContextVar[object] = ContextVar("cloudevents_kit.held_in_vain", default=None)


class _Line:
    """The events of one key: one that runs, or is away, and behind it those that are to come."""

    __slots__ = ("busy", "failed", "places", "timer", "until")

    def __init__(self) -> None:
        self.busy = True
        #: In the order in which they are to run: those that wait, and when those that were sent back were last seen.
        #: A copy of one that waits already has a place of its own.
        self.places: dict[_Id | _Turn, _Turn | float] = {}
        self.failed: tuple[_Id, float] | None = None  # the event that failed last, and when it did so first
        self.until = 0.0  # how long the others are held while the first is away
        self.timer: asyncio.TimerHandle | None = None  # for that

    @property
    def away(self) -> _Id | None:
        """The event that must come before any other, if it was sent back."""
        for identity, place in self.places.items():
            return identity if isinstance(place, float) and isinstance(identity, tuple) else None
        return None

    def failing_since(self, identity: _Id, or_else: Any) -> float:
        """Return when this event failed first, if it is the one that failed last."""
        return self.failed[1] if self.failed is not None and self.failed[0] == identity else or_else


def _is_there(place: _Turn | float | None) -> TypeGuard[_Turn]:
    """Tell whether somebody waits at ``place``, and is not just leaving."""
    return isinstance(place, asyncio.Future) and not place.done()


class Order(Stage):
    """Use `order`."""

    kind = "order"

    def __init__(
        self,
        *,
        key: Key,
        on_failure: str | OnFailure,
        hold: float,
        block_timeout: float,
        retry_after: float,
        max_waiting_per_key: int,
        max_keys: int,
        clock: Clock,
        name: str | None,
    ) -> None:
        super().__init__(name)
        check_plain("key", key)
        if on_failure not in {"block", "skip"}:
            if isinstance(on_failure, str):
                raise ValueError(f"on_failure: must be 'block', 'skip' or a function, not {on_failure!r}")
            check_callable("on_failure", on_failure)
        check_not_negative("hold", hold)
        check_positive("block_timeout", block_timeout)
        check_not_negative("retry_after", retry_after)
        check_count("max_waiting_per_key", max_waiting_per_key)
        check_count("max_keys", max_keys)
        self._key, self._on_failure = key, on_failure
        self._hold, self._block_timeout, self._retry_after = hold, block_timeout, retry_after
        self._max_waiting, self._max_keys, self._clock = max_waiting_per_key, max_keys, clock
        self._lines: dict[Hashable, _Line] = {}
        self._spare: list[_Line] = []  # as good as new, and cheaper
        #: The keys that may be blocked, and when one of their events was last seen, longest ago first.
        self._blocked: OrderedDict[Hashable, float] = OrderedDict()
        self._draining = False

    @property
    def parameters(self) -> Mapping[str, object]:
        return {
            "on_failure": self._on_failure if isinstance(self._on_failure, str) else "function",
            "hold": self._hold,
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
        waits_for = {key: self._lines[key].away for key in self._blocked if not self._lines[key].busy}
        return {key: first for key, first in waits_for.items() if first is not None}

    async def __aenter__(self) -> Self:
        """Return self; an `order` that nobody opens works as well."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Hold events again, should more come."""
        self._draining = False

    def drain(self) -> None:
        """Hold no event any more: the one that it waits for will not come."""
        self._draining = True
        for key, line in [*self._lines.items()]:
            if not line.busy:
                self._send_back(key, line)

    def release(self, key: Hashable) -> bool:
        """Let ``key`` go on without the events that it waits for; tell whether it was blocked."""
        if key not in self._blocked:
            return False
        del self._blocked[key]
        line = self._lines[key]
        missing = [one for one, place in line.places.items() if isinstance(place, float)]
        self.counts["given_up"] += len(missing)
        for one in missing:
            del line.places[one]
        if not line.busy:
            self._pass_on(key, line)
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
        """Wait until it is the turn of ``event``. Raises Withheld if that is not to be."""
        now = self._clock.monotonic()
        self._sweep(now)
        line = self._lines.get(key)
        if line is None:
            if len(self._lines) >= self._max_keys:
                raise self._refusal("too many keys at once", 503)
            line = self._lines[key] = _Line()
            return line
        identity = event.key
        self._give_up(line, identity, now)
        turn: _Turn = asyncio.get_running_loop().create_future()
        place = turn if _is_there(line.places.get(identity)) else identity
        try:
            self._admit(key, line, identity, place, now)
            line.places[place] = turn
        finally:
            if not line.busy and line.away is None:  # those behind what was given up go on in any case
                self._pass_on(key, line)
        await self._wait(key, line, place, turn)
        return line

    def _admit(self, key: Hashable, line: _Line, identity: _Id, place: _Id | _Turn, now: float) -> None:
        """Raise Withheld for an event that cannot wait for its turn."""
        if place not in line.places and len(line.places) >= self._max_waiting:
            raise self._refusal("too many events of this key are waiting", 409)
        if line.busy or line.away in {None, identity}:
            return
        request = request_headers()
        if place is identity and (now >= line.until or (request and _held_in_vain.get() is request)):
            self._remember(key, line, identity, now)
            raise self._refusal("an earlier event of this key comes first", 409)
        self._hold_until(key, line, now)

    async def _wait(self, key: Hashable, line: _Line, place: _Id | _Turn, turn: _Turn) -> None:
        try:
            mine = await turn
        except asyncio.CancelledError:
            if line.places.get(place) is turn:
                del line.places[place]
            if not turn.cancelled() and turn.result():
                self._pass_on(key, line)  # it was just this one's turn
            raise
        if not mine:
            _held_in_vain.set(request_headers())
            raise self._refusal("an earlier event of this key comes first", 409)

    def _give_up(self, line: _Line, identity: _Id | None, now: float) -> None:
        """Forget what comes before the event ``identity`` and has been missing for too long."""
        while (first := line.away) is not None and first != identity:
            if now < line.failing_since(first, or_else=line.places[first]) + self._block_timeout:
                return
            del line.places[first]
            self.counts["given_up"] += 1
            log.warning("stage %s: goes on without an event that did not come again: id=%r", self.name, first[1])

    def _remember(self, key: Hashable, line: _Line, identity: _Id, now: float) -> None:
        """Note that an event was sent back, and where in the line it belongs."""
        line.places[identity] = now
        self._blocked[key] = now
        self._blocked.move_to_end(key)

    def _block(self, key: Hashable, line: _Line, event: Event) -> None:
        """Let ``event`` come again before those that wait."""
        now = self._clock.monotonic()
        line.failed = (event.key, line.failing_since(event.key, or_else=now))
        copy = line.places.pop(event.key, None)
        later, line.places = line.places, {}
        self._remember(key, line, event.key, now)
        if _is_there(copy):
            line.places[event.key] = copy
        line.places.update(later)
        self.counts["blocked"] += 1

    def _pass_on(self, key: Hashable, line: _Line) -> None:
        """Let the next event of ``key`` run, or wait for it."""
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        while line.places:
            one, turn = next(iter(line.places.items()))
            if isinstance(turn, float):
                self._wait_for(key, line, one)
                return
            del line.places[one]
            if not turn.done():
                line.busy = True
                turn.set_result(True)
                return
        del self._lines[key]
        self._blocked.pop(key, None)
        if len(self._spare) < _SPARE:
            line.busy, line.failed = True, None
            self._spare.append(line)

    def _wait_for(self, key: Hashable, line: _Line, first: Any) -> None:
        """Hold those that wait while ``first`` is away: for one time in all, however often that one fails."""
        line.busy = False
        now = self._clock.monotonic()
        line.until = line.failing_since(first, or_else=now) + self._hold
        if self._draining or now >= line.until:
            self._send_back(key, line)
        elif len(line.places) > 1:
            self._hold_until(key, line, now)

    def _hold_until(self, key: Hashable, line: _Line, now: float) -> None:
        if line.timer is None:
            line.timer = asyncio.get_running_loop().call_later(line.until - now, self._end_hold, key, line)

    def _end_hold(self, key: Hashable, line: _Line) -> None:
        """Send back those that wait, if what they wait for may still come."""
        line.timer = None
        self._give_up(line, None, self._clock.monotonic())
        if line.away is None:
            self._pass_on(key, line)
        else:
            self._send_back(key, line)

    def _send_back(self, key: Hashable, line: _Line) -> None:
        """Refuse those that wait, and who comes from now on, until the first event is back."""
        now = line.until = self._clock.monotonic()
        for place, turn in [*line.places.items()]:
            if not _is_there(turn):
                continue
            turn.set_result(False)
            if isinstance(place, tuple):
                self._remember(key, line, place, now)
            else:
                del line.places[place]

    def _sweep(self, now: float) -> None:
        """Forget the keys of which no event has come for so long that nothing is waited for any more."""
        while self._blocked:
            key, seen = next(iter(self._blocked.items()))
            if now < seen + self._block_timeout:
                return
            self.release(key)

    async def _hand_over(self, hook: OnFailure, event: Event, error: Exception, began: float) -> Outcome:
        try:
            await called(hook, event, error)
        except Exception as second:  # noqa: BLE001 - it is told with the first
            both = ExceptionGroup("an event failed, and so did handing it over", [error, second])
            raise self.failure(both, event, began) from both
        log.warning("stage %s: failed and handed over: %s", self.name, name_of(event), exc_info=error)
        self.note("dead_lettered")
        hand_off(current_event() or event)
        return None

    def _refusal(self, why: str, status: int) -> Withheld:
        # 409 concerns this event alone; a sender that gets a 503 would hold back everything.
        self.counts["refused"] += 1
        return Withheld(self._retry_after, f"{why} ({self.name})", status)


def order(
    *,
    key: Key = order_key,
    on_failure: Literal["block", "skip"] | OnFailure = "skip",
    hold: float = 5.0,
    block_timeout: float = 60.0,
    retry_after: float = 1.0,
    max_waiting_per_key: int = 100,
    max_keys: int = 10_000,
    clock: Clock = _CLOCK,
    name: str | None = None,
) -> Order:
    """Handle the events of one key one after the other, in the order in which they come.

    Args:
        key: a plain function that tells which events belong together; None is for those that need no order, and a list
            or an object is answered 422. By default partitionkey, or else source and subject.
        on_failure: what happens to the events behind one that fails. ``skip``: they go on. ``block``: they wait until
            the failed one has come again and was handled, or was refused for good, and then go on in their order.
            A function is called with the event and the error; when it has returned, the event is
            acknowledged and the next one goes on.
        hold: seconds that blocked events wait for the failed one; then they are answered 409, and so are those that
            come from then on until it is back. 0: at once.
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
        hold=hold,
        block_timeout=block_timeout,
        retry_after=retry_after,
        max_waiting_per_key=max_waiting_per_key,
        max_keys=max_keys,
        clock=clock,
        name=name,
    )
