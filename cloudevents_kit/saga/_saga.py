"""The saga as a handler: it stores the event that starts one, and drives what is in the journal while it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Literal

from cloudevents_kit._arguments import (
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_kind,
    check_methods,
    check_not_negative,
    check_positive,
)
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import ACCEPTED, Outcome, log, name_of
from cloudevents_kit._errors import Refusal, Reject, Retry
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker, check_taker
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.saga._drive import Driver
from cloudevents_kit.saga._journal import OVER, Journal, State, encode, pack, unpack
from cloudevents_kit.saga._looks import Looks
from cloudevents_kit.saga._steps import Context, Step

_POLICY = RetryPolicy(attempts=5, initial=1.0, max_delay=60.0, deadline=None)
_MOST_EVENTS = 100
_LONGEST = 128


class Saga(Looks):
    """A handler for the events that start a saga; each is acknowledged once the journal has it."""

    is_async_handler = True

    def __init__(
        self,
        name: str,
        steps: Iterable[Step],
        *,
        journal: Journal,
        retry: RetryPolicy | None = None,
        deadline: float | None = None,
        key: Callable[[Event], str] | None = None,
        wait: bool = False,
        reply: Callable[[Context], Event] | None = None,
        unknown: Literal["retry", "park"] = "retry",
        dead_letter: Taker | None = None,
        retention: float = 7 * 86400.0,
        concurrency: int = 10,
        lease: float = 60.0,
        poll: float = 1.0,
        grace: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        """Define a saga; nothing runs before it is opened, which the receiver does whose handler it is.

        Args:
            name: names it in the journal, and in the ids of the events it sends.
            steps: in their order.
            journal: where the state is kept. Whoever makes it opens and closes it.
            retry: how often each step, and each compensation, is tried, if that does not say itself. By default 5
                times, waiting 1 s and more.
            deadline: seconds from the start after which no further step begins, and what was done is compensated.
            key: makes the id of the saga, of the event that starts it and of every event for it (see `deliver`). By
                default an id is made of (source, id) of the first, and the others name a step in causationid.
            wait: answer when the saga is over: 204 or a reply if it is completed, and 422 if not.
            reply: makes the reply of a completed saga; implies ``wait``.
            unknown: what an event gets whose saga has not started: 503, so that it is sent again, or, if it is
                ``"park"``, it is kept for ``retention`` and then a dead letter.
            dead_letter: gets the first event of a saga that is stuck: a sink, or a function of the event and a
                `SagaError`. If it does not take it, it is asked again later.
            retention: seconds for which a saga that is over is remembered, so that a copy starts nothing new. One
                that is stuck is remembered until somebody calls `resume`.
            concurrency: sagas that are driven here at once; 0 leaves that to `work`, or to other processes.
            lease: seconds after which others go on with what a process that died had begun. A step may take nine
                tenths of it, then it is cancelled and in doubt.
            poll: seconds between looks for what others have left.
            grace: seconds that steps have to end when the saga is closed.
            clock: for deadlines and pauses; leases are the journal's, by a clock of its own.
        """
        check_kind("name", name, str, "a str")
        if not name.isprintable() or "/" in name or not 0 < len(name) <= 64:
            raise ValueError(f"name: must be 1 to 64 printable characters without /, not {name!r}")
        by_name = {step.name: step for step in _checked(steps)}
        check_methods("journal", journal, "a Journal", "load", "save", "lease", "read", "forget")
        retry = _POLICY if retry is None else retry
        check_kind("retry", retry, RetryPolicy, "a RetryPolicy")
        if clock is not None:
            check_methods("clock", clock, "a Clock", "monotonic", "now", "sleep")
        for argument, function in (("key", key), ("reply", reply)):
            if function is not None:
                check_callable(argument, function)
        check_taker("dead_letter", dead_letter)
        for argument, seconds in (("retention", retention), ("lease", lease), ("poll", poll)):
            check_positive(argument, seconds)
        if deadline is not None:
            check_positive("deadline", deadline)
        check_choice("unknown", unknown, ("retry", "park"))
        check_flag("wait", wait)
        check_count("concurrency", concurrency, least=0)
        check_not_negative("grace", grace)
        super().__init__(
            Driver(
                name=name,
                steps=by_name,
                journal=journal,
                retry=retry,
                lease=lease,
                retention=retention,
                dead_letter=dead_letter,
                clock=SystemClock() if clock is None else clock,
            ),
            concurrency=concurrency,
            poll=poll,
            grace=grace,
        )
        self._journal, self._now = journal, self.driver.now
        self._deadline, self._key, self._reply = deadline, key, reply
        self._waits = wait or reply is not None
        self._parks = unknown == "park"

    # Events.

    def id_of(self, event: Event) -> str:
        """Return the id of the saga that ``event`` starts. Raises `Reject` if ``key`` gives it none."""
        check_kind("event", event, Event, "an Event")
        if self._key is None:
            return sha256(f"{len(event.source)}:{event.source}{event.id}".encode()).hexdigest()[:32]
        key: Any = self._key(event)
        if key is None or key == "":
            raise Reject(f"the event has no key that names its {self.name}")
        check_kind("key", key, str, "a function that returns a str")
        fits = len(key) <= _LONGEST and key.isprintable()
        return key if fits else sha256(key.encode("utf-8", "surrogatepass")).hexdigest()

    async def __call__(self, event: Event) -> Outcome:
        """Start a saga, unless ``event`` has started it already."""
        if not self.users:
            raise RuntimeError(f"saga {self.name}: must be open (async with, or as a part of what a receiver serves)")
        id = self.id_of(event)
        state, version = State(event=pack(event)), 0
        while not await self._begin(id, state, version):
            found = await self._load(id)
            if found is None:
                version = 0
                continue
            entry, before = found
            if before.started and not self._is_forgotten(before):
                return await self._repeated(id, before, event)
            version, state.events = entry.version, [] if before.started else before.events
        self.counts["started"] += 1
        self.wake()
        return await self._end_of(id) if self._waits else ACCEPTED

    async def _begin(self, id: str, state: State, version: int) -> bool:
        if self._deadline is not None:
            state.deadline, state.allowed = self._now() + self._deadline, self._deadline
        return await self._save(id, state, version)

    async def _save(self, id: str, state: State, version: int, due: float | None = 0.0, lease: str = "") -> bool:
        return await self._journal.save(
            self.name, id, encode(state), version=version, due=due, lease=lease, expires=None
        )

    async def _repeated(self, id: str, state: State, event: Event) -> Outcome:
        if unpack(state.event).key != event.key:
            raise Reject(f"another event has started this {self.name}")
        self.counts["repeated"] += 1
        return await self._end_of(id) if self._waits else ACCEPTED

    async def deliver(self, event: Event) -> None:
        """Take an event for a saga: a handler, for the types of events that answer what its steps have sent.

        It is acknowledged once it is in the journal, and wakes the step that waits for it.
        """
        id = self._saga_of(event)
        while not await self._add(id, event):
            self.counts["conflicts"] += 1
        self.wake()

    async def _add(self, id: str, event: Event) -> bool:
        found = await self._load(id)
        if found is None or self._is_forgotten(found[1]):
            if not self._parks:
                raise Retry(self.poll, f"no such {self.name} has started yet")
            state = State(status="parked", events=[pack(event)])
            return await self._save(id, state, 0 if found is None else found[0].version, self.driver.retention)
        entry, state = found
        if state.status in {"completed", "compensated"}:
            self.counts["late"] += 1
            log.warning("saga %s: is over already: %s: %s", self.name, id, name_of(event))
            return True
        if any(unpack(one).key == event.key for one in state.events):
            return True
        if len(state.events) >= _MOST_EVENTS:
            raise Retry(self.poll, f"too many events for this {self.name}", 429)
        state.events.append(pack(event))
        due = entry.due
        if state.status == "parked" and due is None:  # what had been parked before has become a dead letter
            due = self.driver.retention
        elif state.status in {"running", "compensating"} and not entry.lease:
            due = 0.0
        return await self._save(id, state, entry.version, due, entry.lease)

    def _saga_of(self, event: Event) -> str:
        check_kind("event", event, Event, "an Event")
        if self._key is not None:
            return self.id_of(event)
        saga, _, rest = str(event.get("causationid", "")).partition("/")
        id, _, step = rest.rpartition("/")
        if saga != self.name or not id or not step:
            raise Reject(f"the event names no step of a {self.name} in causationid")
        return id

    def _is_forgotten(self, state: State) -> bool:
        over = state.status in {"completed", "compensated"}
        return over and state.ended + self.driver.retention <= self._now()

    # The answer at the end.

    async def _end_of(self, id: str) -> Outcome:
        """Wait until the saga is over, and return or raise the answer."""
        while True:
            with self.watching(id) as rested:
                found = await self._load(id)
                if found is None or found[1].status in OVER:
                    return self._answer(id, None if found is None else found[1])
                await asyncio.wait((rested,), timeout=self.poll)

    def _answer(self, id: str, state: State | None) -> Outcome:
        if state is None or state.status != "completed":
            became = "was forgotten" if state is None else "is stuck" if state.status == "stuck" else "was compensated"
            why = f": {state.answer}" if state is not None and state.answer else ""
            raise Refusal(f"this {self.name} {became}{why}", 422, retryable=False)
        if self._reply is None:
            return None
        return self._reply(
            Context(
                event=unpack(state.event),
                key=self.driver.key(id, "reply"),
                results=state.results(),
                events=tuple(map(unpack, state.events)),
                began=datetime.fromtimestamp(state.ended, UTC),
            )
        )


def _checked(steps: Iterable[Step]) -> list[Step]:
    check_kind("steps", steps, Iterable, "a list of Steps")
    found = [*steps]
    for step in found:
        check_kind("steps", step, Step, "Steps")
    names = [step.name for step in found]
    if not names or len({*names}) < len(names):
        raise ValueError("steps: must be one or more, of different names")
    return found
