"""`queue` with a store: an event is stored before it is acknowledged, and kept until it is done."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from cloudevents_kit import Event, Reject, Retry, RetryPolicy, current_event, settle, stages, wrap
from cloudevents_kit.dead_letter import keeper
from cloudevents_kit.stores.memory import MemoryQueueStore
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.testing import QueueStoreConformance
from tests.support.clock import ManualClock
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual

POLICY = RetryPolicy(attempts=3, initial=10, jitter=False)


class TestMemory(QueueStoreConformance):
    now: ManualClock

    @pytest.fixture
    def store(self) -> MemoryQueueStore:
        self.now = ManualClock()
        return MemoryQueueStore(clock=self.now)

    async def passes(self, ticks: float) -> None:
        await self.now.sleep(ticks)


class Work:
    """Takes a second, and fails as often as it is told to."""

    def __init__(self, **fails: Any) -> None:
        self.fails = fails
        self.begun: list[str] = []
        self.done: list[str] = []

    async def __call__(self, event: Event) -> Event:
        assert current_event() == event
        self.begun.append(event.id)
        await asyncio.sleep(1)
        if self.fails.get(event.id):
            raise self.fails[event.id].pop(0)
        self.done.append(event.id)
        return event.reply(type="t", source="/r")


async def send(handler: Any, *ids: str, **given: Any) -> list[int]:
    results: list[Any] = await asyncio.gather(*(settle(handler, new(id=identity, **given)) for identity in ids))
    return [result.status for result in results]


@virtual
async def test_an_event_is_accepted_when_it_is_stored_and_done_later(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    stage = stages.queue(store=store, workers=2)
    handler = wrap(work, stage)
    async with stages.running(handler):
        assert await send(handler, "1", "2", "3") == [202] * 3
        assert (work.done, len(store)) == ([], 3)
        await asyncio.sleep(0.5)
        assert stage.status == {"stored": 3, "workers": 2, "running": 2, "waiting": 0}
        await asyncio.sleep(1.6)
        assert work.done == ["1", "2", "3"]
        assert len(store) == 0
    assert stage.counts == {"stored": 3, "done": 3, "unanswered": 3}


@virtual
async def test_what_failed_is_tried_again_with_growing_gaps_and_then_parked(clock: LoopClock) -> None:
    store = MemoryQueueStore(clock=clock)
    work = Work(**{"1": [ValueError(), ValueError()], "2": [Retry()] * 9, "3": [Reject()]})
    stage = stages.queue(store=store, retry=POLICY)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1", "2", "3")
        await asyncio.sleep(9)
        assert sorted(work.begun) == ["1", "2", "3"]
        await asyncio.sleep(60)
    assert work.begun.count("1") == work.begun.count("2") == 3
    assert work.done == ["1"]
    assert work.begun.count("3") == 1  # rejected for good
    assert [event.id for event in store.parked] == ["3", "2"] or [event.id for event in store.parked] == ["2", "3"]
    assert stage.counts["retried"] == 4
    assert stage.counts["parked"] == 2


@virtual
async def test_what_cannot_be_done_is_handed_over_or_else_parked(clock: LoopClock) -> None:
    taken: list[tuple[str, type]] = []

    def take(event: Event, error: Exception) -> Any:
        if event.id == "2":
            raise OSError
        taken.append((event.id, type(error)))
        return asyncio.sleep(0) if event.id == "1" else None

    store = MemoryQueueStore(clock=clock)
    work = Work(**{"1": [Reject()], "2": [Reject()], "3": [Reject()]})
    stage = stages.queue(store=store, dead_letter=take)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1", "2", "3")
        await asyncio.sleep(3)
    assert taken == [("1", Reject), ("3", Reject)]
    assert [event.id for event in store.parked] == ["2"]
    assert (stage.counts["dead_lettered"], stage.counts["parked"]) == (2, 1)


@virtual
async def test_a_failure_names_the_stages_it_came_through(clock: LoopClock) -> None:
    taken: list[Exception] = []
    store = MemoryQueueStore(clock=clock)

    def fail(event: Event) -> None:
        raise ValueError

    stage = stages.queue(
        store=store, retry=RetryPolicy.none(), dead_letter=lambda event, error: taken.append(error), name="later"
    )
    handler = wrap(Work(), stage, stages.tap(fail, name="tap"))
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(3)
    (error,) = taken
    assert isinstance(error, stages.StageError)
    assert error.path == ("later", "tap")
    assert isinstance(error.__cause__, ValueError)


@virtual
async def test_a_dead_letter_tells_how_often_the_event_was_tried(clock: LoopClock) -> None:
    """Those attempts included whose workers died, and all of a `retry` further in the last time."""
    store, letters = MemoryQueueStore(clock=clock), MemoryDeadLetterStore()
    await store.put(new(id="died"), key=None, capacity=9)
    for _ in range(3):
        assert await store.lease(30)
        await asyncio.sleep(31)
    died = await store.lease(1e6)
    assert died is not None
    await store.put(new(id="once"), key=None, capacity=9)
    assert await store.lease(30)
    await asyncio.sleep(31)
    assert await store.nack(died[0], delay=0, attempted=False)
    stage = stages.queue(store=store, retry=POLICY, dead_letter=keeper(letters, "later"))
    inner = stages.retry(RetryPolicy(attempts=2, initial=0.01), name="inner")
    work = Work(once=[OSError()] * 9, fails=[OSError()] * 9, bad=[Reject()])
    handler = wrap(work, stage, inner)
    async with stages.running(handler):
        await send(handler, "fails", "bad")
        await asyncio.sleep(200)
    found = {letter.event.id: letter for letter in await letters.read(0, 9)}
    assert {id: letter.attempts for id, letter in found.items()} == {"died": 3, "once": 4, "fails": 4, "bad": 1}
    assert (found["fails"].error, found["fails"].path[-1]) == ("OSError", "inner")


@virtual
async def test_what_was_left_is_picked_up_at_the_next_start(clock: LoopClock) -> None:
    """A crash between the work and its acknowledgement means the event is done again, once its lease is over."""
    store, work = MemoryQueueStore(clock=clock), Work()
    for identity in "123":
        await store.put(new(id=identity), key=None, capacity=9)
    assert await store.lease(30)  # by a worker that died
    handler = wrap(work, stages.queue(store=store))
    async with stages.running(handler):
        await asyncio.sleep(5)
        assert work.done == ["2", "3"]
        await asyncio.sleep(30)
        assert work.done == ["2", "3", "1"]


@virtual
async def test_an_event_that_kills_its_workers_is_given_up(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    await store.put(new(), key=None, capacity=9)
    for _ in range(3):
        assert await store.lease(30)
        await asyncio.sleep(31)
    async with stages.running(wrap(work, stages.queue(store=store, retry=POLICY))):
        await asyncio.sleep(5)
    assert work.begun == []
    assert len(store.parked) == 1


@virtual
async def test_a_close_ends_what_runs_and_cuts_off_what_takes_too_long_which_stays_stored(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    stage = stages.queue(store=store, workers=1, grace=0.5)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1", "2", "3")
        await asyncio.sleep(1.6)
    assert (work.done, work.begun, clock.monotonic()) == (["1", "2"], ["1", "2"], 2.0) or work.done == ["1"]
    left = len(store)
    assert left + len(work.done) == 3
    assert await send(handler, "4") == [503]
    async with stages.running(handler):
        await asyncio.sleep(5)
    assert sorted(work.done) == ["1", "2", "3"]


@virtual
async def test_a_cut_off_event_is_due_at_once(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    handler = wrap(work, stages.queue(store=store, grace=0))
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(0.5)
    assert len(store) == 1
    assert await store.lease(1) is not None


@virtual
async def test_an_event_that_takes_longer_than_its_lease_is_cancelled_and_tried_again(clock: LoopClock) -> None:
    """K-D10."""
    running = most = 0

    async def work(event: Event) -> None:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        try:
            await asyncio.sleep(100)
        finally:
            running -= 1

    store = MemoryQueueStore(clock=clock)
    stage = stages.queue(store=store, lease=10, retry=RetryPolicy(attempts=3, initial=0))
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(60)
    assert (most, stage.counts["parked"]) == (1, 1)


@virtual
async def test_a_handler_that_ends_as_if_cancelled_has_failed(clock: LoopClock) -> None:
    store = MemoryQueueStore(clock=clock)
    work = Work(**{"1": [asyncio.CancelledError()]})
    stage = stages.queue(store=store, retry=RetryPolicy(attempts=2, initial=0))
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(5)
    assert work.done == ["1"]
    assert stage.counts["retried"] == 1


class Stopped(BaseException):
    """Some library's."""


@virtual
async def test_a_handler_that_ends_with_what_is_no_exception_has_failed(clock: LoopClock) -> None:
    taken: list[Exception] = []
    work = Work(**{str(number): [Stopped(), BaseExceptionGroup("", [Stopped()])] for number in range(9)})
    work.fails["9"] = [Stopped()] * 3
    stage = stages.queue(
        store=MemoryQueueStore(clock=clock), retry=POLICY, dead_letter=lambda event, error: taken.append(error)
    )
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, *map(str, range(10)))
        await asyncio.sleep(100)
    assert sorted(work.done) == [*map(str, range(9))]
    [error] = taken
    assert isinstance(error, stages.StageError)
    assert (error.path, error.kind, error.attempts) == ((stage.name,), "exhausted", 3)
    assert isinstance(error.__cause__, RuntimeError)
    assert isinstance(error.__cause__.__cause__, Stopped)


def test_what_ends_the_program_is_no_failed_attempt() -> None:
    store = MemoryQueueStore()

    async def stop(event: Event) -> None:
        raise KeyboardInterrupt

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it would log the task's end
        handler = wrap(stop, stages.queue(store=store, workers=1))
        async with stages.running(handler):
            await send(handler, "1")
            await asyncio.sleep(10)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert (len(store), store.parked) == (1, [])


@virtual
async def test_a_dead_letter_has_half_a_lease_however_late_the_event_failed(clock: LoopClock) -> None:
    """And nobody else has the event meanwhile."""
    taken: list[float] = []

    async def take(event: Event, error: Exception) -> None:
        taken.append(clock.monotonic())
        await asyncio.sleep(4)

    async def work(event: Event) -> None:
        await asyncio.sleep(100)

    store = MemoryQueueStore(clock=clock)
    stage = stages.queue(store=store, lease=10, retry=RetryPolicy.none(), dead_letter=take)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(60)
    assert taken == [9]
    assert (len(store), stage.counts["dead_lettered"]) == (0, 1)


@pytest.mark.parametrize("how", ["hangs", "cancelled", "stopped"])
@virtual
async def test_a_dead_letter_that_does_not_end_well_leaves_the_event_parked(clock: LoopClock, how: str) -> None:
    async def take(event: Event, error: Exception) -> None:
        if how == "hangs":
            await asyncio.Event().wait()
        raise asyncio.CancelledError if how == "cancelled" else Stopped

    store, work = MemoryQueueStore(clock=clock), Work(**{"1": [Reject()]})
    stage = stages.queue(store=store, workers=1, lease=10, dead_letter=take)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1", "2")
        await asyncio.sleep(7.5)
    assert work.done == ["2"]
    assert [event.id for event in store.parked] == ["1"]
    assert (stage.counts["dead_letter_failed"], stage.counts["store_failed"]) == (1, 0)


@pytest.mark.parametrize(("key", "status"), [(object(), 500), (("a", object()), 500), (("a", None, 1.5), 202)])
@virtual
async def test_a_key_that_is_not_the_same_in_every_process_is_refused(clock: LoopClock, key: Any, status: int) -> None:
    store = MemoryQueueStore(clock=clock)
    handler = wrap(Work(), stages.queue(store=store, key=lambda event: key))
    async with stages.running(handler):
        assert await send(handler, "1") == [status]


@virtual
async def test_a_dead_letter_that_is_cut_off_comes_again(clock: LoopClock) -> None:
    taken: list[str] = []

    async def take(event: Event, error: Exception) -> None:
        taken.append(event.id)
        if len(taken) == 1:
            await asyncio.Event().wait()

    store = MemoryQueueStore(clock=clock)
    handler = wrap(
        Work(**{"1": [Reject()] * 2}), stages.queue(store=store, retry=RetryPolicy.none(), dead_letter=take, grace=0)
    )
    for _ in range(2):
        async with stages.running(handler):
            await send(handler, *([] if taken else ["1"]))
            await asyncio.sleep(2)
    assert (taken, len(store), store.parked) == (["1", "1"], 0, [])


@virtual
async def test_an_event_that_somebody_else_has_is_no_dead_letter(clock: LoopClock) -> None:
    taken: list[str] = []
    store = MemoryQueueStore(clock=clock)
    stage = stages.queue(
        store=store, workers=1, dead_letter=lambda event, error: taken.append(event.id), retry=RetryPolicy.none()
    )
    handler = wrap(Work(**{"1": [ValueError()]}), stage)
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(0.5)
        store._queued[("/s", "1")].token = "somebody else's"
        await asyncio.sleep(1)
    assert (taken, stage.counts["late"]) == ([], 1)


@virtual
async def test_a_stop_is_no_attempt(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    handler = wrap(work, stages.queue(store=store, retry=POLICY, grace=0))
    for _ in range(10):
        async with stages.running(handler):
            await send(handler, *([] if work.begun else ["1"]))
            await asyncio.sleep(0.5)
    async with stages.running(handler):
        await asyncio.sleep(2)
    assert (work.done, store.parked) == (["1"], [])


@virtual
async def test_a_handler_that_returns_nonsense_has_failed(clock: LoopClock) -> None:
    store = MemoryQueueStore(clock=clock)

    async def work(event: Event) -> Any:
        return 5

    handler = wrap(work, stages.queue(store=store, retry=RetryPolicy.none()))
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(5)
    assert len(store.parked) == 1


@virtual
async def test_events_of_one_key_are_done_in_order_even_if_one_is_tried_again(clock: LoopClock) -> None:
    """K-P6, K-D7."""
    store = MemoryQueueStore(clock=clock)
    work = Work(A1=[Retry()])
    handler = wrap(work, stages.queue(store=store, key=lambda event: (event.id[0],), retry=POLICY))
    async with stages.running(handler):
        await send(handler, "A1", "A2", "B1")
        await asyncio.sleep(30)
    assert work.done == ["B1", "A1", "A2"]


@virtual
async def test_a_text_is_a_key_and_none_is_no_key(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    handler = wrap(work, stages.queue(store=store, key=lambda event: event.subject))
    async with stages.running(handler):
        await send(handler, "1", "2", subject="s")
        await send(handler, "3")
        await asyncio.sleep(1.5)
        assert work.done == ["1", "3"]
        await asyncio.sleep(1)
    assert work.done == ["1", "3", "2"]


@virtual
async def test_a_full_store_refuses_or_lets_wait(clock: LoopClock) -> None:
    for on_full, statuses in (("refuse", [202, 202, 503]), ("wait", [202, 202, 202])):
        store = MemoryQueueStore(clock=clock)
        stage = stages.queue(store=store, capacity=2, workers=1, on_full=on_full)  # type: ignore[arg-type]
        handler = wrap(Work(), stage)
        async with stages.running(handler):
            sending = asyncio.ensure_future(send(handler, "1", "2", "3"))
            await asyncio.sleep(0.5)
            assert stage.waiting == (on_full == "wait")
            assert await sending == statuses
            await asyncio.sleep(5)


@virtual
async def test_who_waits_for_room_when_it_is_closed_is_refused(clock: LoopClock) -> None:
    store = MemoryQueueStore(clock=clock)
    stage = stages.queue(store=store, capacity=1, workers=1, grace=0)
    handler = wrap(Work(), stage)
    async with stages.running(handler):
        sending = asyncio.ensure_future(send(handler, "1", "2"))
        await asyncio.sleep(0.5)
    assert await sending == [202, 503]
    assert len(store) == 1


@virtual
async def test_workers_may_come_and_go(clock: LoopClock) -> None:
    """K-P6."""
    store, work = MemoryQueueStore(clock=clock), Work()
    stage = stages.queue(store=store, workers=1)
    stage.resize(2)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, *map(str, range(20)))
        await asyncio.sleep(0.5)
        assert stage.running == 2
        stage.resize(5)
        await asyncio.sleep(0.1)
        assert stage.running == 5
        await asyncio.sleep(1)
        stage.resize(1)
        await asyncio.sleep(1.5)
        assert stage.running == 1
        await asyncio.sleep(20)
    assert sorted(work.done) == sorted(map(str, range(20)))


class Broken(MemoryQueueStore):
    """Fails as often as it is told to, by method."""

    def __init__(self, clock: LoopClock, error: type[BaseException] = OSError, **fails: int) -> None:
        super().__init__(clock=clock)
        self.error = error
        self.fails = fails

    def check(self, method: str) -> None:
        if self.fails.get(method, 0):
            self.fails[method] -= 1
            raise self.error(method)

    async def put(self, event: Event, /, *, key: str | None, capacity: int) -> bool:
        self.check("put")
        return await super().put(event, key=key, capacity=capacity)

    async def lease(self, seconds: float, /) -> tuple[str, Event, int] | None:
        self.check("lease")
        return await super().lease(seconds)

    async def ack(self, token: str, /) -> bool:
        self.check("ack")
        return await super().ack(token)


@virtual
async def test_what_cannot_be_stored_is_not_acknowledged(clock: LoopClock) -> None:
    store = Broken(clock, put=1)
    handler = wrap(Work(), stages.queue(store=store))
    async with stages.running(handler):
        assert await send(handler, "1") == [500]
        assert await send(handler, "1") == [202]
        await asyncio.sleep(3)


@virtual
async def test_a_store_that_fails_does_not_end_the_workers_and_loses_nothing(clock: LoopClock) -> None:
    store, work = Broken(clock, lease=3, ack=1), Work()
    stage = stages.queue(store=store, workers=1, lease=10)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await asyncio.sleep(5)
        assert await send(handler, "1") == [202]
        await asyncio.sleep(20)
    assert work.done == ["1", "1"]  # its end was not stored, so it was done again
    assert len(store) == 0
    assert stage.counts["store_failed"] == 4


@virtual
async def test_a_store_whose_calls_end_as_if_cancelled_stalls_nothing(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, work = Broken(clock, error=asyncio.CancelledError, lease=50, ack=1), Work()
    stage = stages.queue(store=store, workers=2, lease=10)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await asyncio.sleep(30)
        assert await send(handler, "1") == [202]
        await asyncio.sleep(20)
    assert work.done == ["1", "1"]
    assert len(store) == 0
    assert stage.counts["store_failed"] == 51
    assert [record.getMessage() for record in caplog.records] == ["stage queue: nothing can be leased"]


class Slow(MemoryQueueStore):
    """Takes its time to find nothing."""

    async def lease(self, seconds: float, /) -> tuple[str, Event, int] | None:
        await asyncio.sleep(0.5)
        return await super().lease(seconds)


@virtual
async def test_a_worker_that_finds_nothing_while_it_is_closed_leaves_at_once(clock: LoopClock) -> None:
    async with stages.running(wrap(Work(), stages.queue(store=Slow(clock=clock), poll=60))):
        await asyncio.sleep(0.2)
    assert clock.monotonic() == 0.5


@virtual
async def test_an_end_that_comes_after_the_lease_is_not_counted_as_one(clock: LoopClock) -> None:
    store, work = MemoryQueueStore(clock=clock), Work()
    stage = stages.queue(store=store, workers=1)
    handler = wrap(work, stage)
    async with stages.running(handler):
        await send(handler, "1")
        await asyncio.sleep(0.5)
        store._queued[("/s", "1")].token = "somebody else's"
        await asyncio.sleep(1)
    assert stage.counts["late"] == 1
    assert stage.counts["done"] == 0


@virtual
async def test_a_queue_with_a_store_is_part_of_one_chain(clock: LoopClock) -> None:
    stage = stages.queue(store=MemoryQueueStore(clock=clock))
    with pytest.raises(RuntimeError, match="must be part of a chain"):
        await stage.__aenter__()
    work = Work()
    wrap(work, stage)
    wrap(work, stage)
    with pytest.raises(ValueError, match="can be in one chain only"):
        wrap(Work(), stage)


def test_a_handler_may_be_equal_to_another_and_have_no_hash() -> None:
    @dataclass
    class Handler:
        number: int = 0

        async def __call__(self, event: Event) -> None: ...

    stage = stages.queue(store=MemoryQueueStore())
    wrap(Handler(), stage)
    with pytest.raises(ValueError, match="can be in one chain only"):
        wrap(Handler(), stage)


@virtual
async def test_fifty_events_are_each_done_whatever_fails(clock: LoopClock) -> None:
    store = MemoryQueueStore(clock=clock)
    work = Work(**{str(number): [ValueError()] * (number % 3) for number in range(50)})
    handler = wrap(work, stages.queue(store=store, retry=POLICY))
    for _ in range(20):  # closed and opened again in the middle
        async with stages.running(handler):
            await send(handler, *map(str, range(50))) if not work.begun else None
            await asyncio.sleep(7.3)
    async with stages.running(handler):
        await asyncio.sleep(100)
    assert sorted(map(int, set(work.done))) == list(range(50))
    assert (len(store), store.parked) == (0, [])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [("lease", 0, ValueError), ("poll", 0, ValueError), ("retry", 5, TypeError), ("dead_letter", 5, TypeError)],
)
def test_a_wrong_setting_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: must be "):
        stages.queue(store=MemoryQueueStore(), **{name: value})
