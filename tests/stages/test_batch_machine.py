"""`batch` under any interleaving: no event is lost, none is acknowledged before it is done, the counts are exact."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudevents_kit import Event, Reject, Result, Retry, settle, stages, wrap
from tests.support.events import new
from tests.support.sending import acked
from tests.support.virtual import VirtualLoop

ENDS = ("done", "raises", "retry", "each", "short", "cancelled")


class BatchMachine(RuleBasedStateMachine):
    """Work ends when the machine says so, and as it says; time passes when it says so."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("cloudevents_kit").setLevel(logging.CRITICAL)  # else most of the time goes there
        self.runner = asyncio.Runner(loop_factory=VirtualLoop)
        self.loop = self.runner.get_loop()
        self.sent: dict[int, asyncio.Task[Result]] = {}
        self.cancelled: set[int] = set()
        self.calls: list[tuple[list[int], asyncio.Future[Any]]] = []
        self.allowed: dict[int, set[int]] = {}  # by event: the statuses that its end of the work stands for
        self.handed: list[int] = []
        self.went_on: list[int] = []
        self.is_open = False

    @initialize(
        max_events=st.integers(1, 4), room=st.integers(0, 4), concurrency=st.integers(1, 3), refuse=st.booleans()
    )
    def build(self, max_events: int, room: int, concurrency: int, refuse: bool) -> None:
        self.max_events, self.max_pending, self.concurrency = max_events, max_events + room, concurrency
        self.stage = stages.batch(
            self.work,
            max_events=max_events,
            max_pending=self.max_pending,
            max_delay=1,
            on_full="refuse" if refuse else "wait",
            concurrency=concurrency,
            timeout=100,
            grace=2,
        )
        self.handler = wrap(self.after, self.stage)
        self.open()

    async def work(self, events: Sequence[Event]) -> Any:
        ids = [int(event.id) for event in events]
        future: asyncio.Future[Any] = self.loop.create_future()
        self.calls.append((ids, future))
        self.handed += ids
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            for one in ids:
                self.allowed.setdefault(one, {503, 500})
            raise
        finally:
            self.calls = [call for call in self.calls if call[1] is not future]

    async def after(self, event: Event) -> None:
        assert self.allowed[int(event.id)] == {204}
        self.went_on.append(int(event.id))

    def turn(self, seconds: float = 0.0) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            for _ in range(20):
                await asyncio.sleep(0)

        self.runner.run(wait())

    @precondition(lambda self: not self.is_open)
    @rule()
    def open(self) -> None:
        self.runner.run(self.stage.__aenter__())
        self.is_open = True

    @rule(count=st.integers(1, 6))
    def send(self, count: int) -> None:
        for _ in range(count):
            number = len(self.sent)
            self.sent[number] = self.loop.create_task(settle(self.handler, new(id=str(number))))
        self.turn()

    @rule(data=st.data(), at_once=st.booleans())
    def cancel(self, data: st.DataObject, at_once: bool) -> None:
        waiting = [number for number, task in self.sent.items() if not task.done()]
        for number in data.draw(st.lists(st.sampled_from(waiting), max_size=3, unique=True)) if waiting else ():
            self.sent[number].cancel()
            self.cancelled.add(number)
        if not at_once:
            self.turn()

    @rule(seconds=st.sampled_from([0.1, 0.5, 1, 5, 200]))
    def wait(self, seconds: float) -> None:
        self.turn(seconds)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(ENDS))
    def end_work(self, data: st.DataObject, how: str) -> None:
        ids, future = data.draw(st.sampled_from(self.calls))
        if future.done():
            return
        ends: list[Any] = [None] * len(ids)
        statuses = [204] * len(ids)
        match how:
            case "raises":
                future.set_exception(ValueError())
                statuses = [500] * len(ids)
            case "retry":
                future.set_exception(Retry())
                statuses = [503] * len(ids)
            case "cancelled":
                future.cancel()
                statuses = [500] * len(ids)
            case "short":
                future.set_result(ends[1:])
                statuses = [500] * len(ids)
            case "each":
                ends = [data.draw(st.sampled_from([None, Reject()])) for _ in ids]
                statuses = [204 if end is None else 422 for end in ends]
                future.set_result(ends)
            case _:
                future.set_result(None)
        self.allowed |= {one: {status} for one, status in zip(ids, statuses, strict=True)}
        self.turn()

    @rule()
    def drain(self) -> None:
        self.loop.call_soon(self.stage.drain)
        self.turn()
        if len(self.calls) < self.concurrency:
            assert self.stage.pending == len([one for call in self.calls for one in call[0] if self.lives(one)])

    @precondition(lambda self: self.is_open)
    @rule()
    def close(self) -> None:
        self.is_open = False
        self.runner.run(self.stage.__aexit__())
        for _ in self.sent:  # those who wait for room are refused one after the other
            if not all(task.done() for task in self.sent.values()):
                self.turn()
        assert all(task.done() for task in self.sent.values())
        assert self.stage.pending == 0
        assert not self.calls

    def lives(self, number: int) -> bool:
        return not self.sent[number].done()

    @invariant()
    def every_event_has_the_outcome_of_its_own_work(self) -> None:
        acknowledged = 0
        for number, task in self.sent.items():
            if not task.done():
                continue
            if task.cancelled():
                assert number in self.cancelled
                continue
            result: Any = task.result()
            acknowledged += result.status == 204
            if number in self.allowed:
                assert result.status in self.allowed[number], number
            else:
                assert result.status == 503, number  # refused, or cut off before the work began
        assert set(self.went_on) >= {number for number, task in self.sent.items() if acked(task)}
        assert len(self.went_on) == len(set(self.went_on))

    @invariant()
    def work_gets_every_event_once_in_order_and_within_the_limits(self) -> None:
        if not hasattr(self, "stage"):
            return
        assert self.handed == sorted(set(self.handed))
        assert len(self.calls) <= self.concurrency
        assert all(1 <= len(ids) <= self.max_events for ids, _ in self.calls)
        assert self.stage.counts["events"] == len(self.handed)
        assert self.stage.pending <= self.max_pending

    def teardown(self) -> None:
        if self.is_open:
            self.close()
        self.every_event_has_the_outcome_of_its_own_work()
        self.runner.close()
        logging.getLogger("cloudevents_kit").setLevel(logging.NOTSET)


TestBatch = BatchMachine.TestCase
TestBatch.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
