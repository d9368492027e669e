"""`queue` without a store: so many run at once, the others wait in order, and each caller gets its own outcome."""

import asyncio
import tracemalloc
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    Handler,
    Reject,
    Result,
    RetryPolicy,
    current_event,
    settle,
    stages,
    wrap,
)
from cloudevents_kit.stores.memory import MemoryQueueStore
from tests.support.events import new
from tests.support.sending import start, statuses, turns
from tests.support.virtual import LoopClock, virtual


class Work:
    """Takes a second for each event, and counts how many run at once."""

    def __init__(self, **fails: Exception) -> None:
        self.fails = fails
        self.begun: list[str] = []
        self.running = 0
        self.most = 0

    async def __call__(self, event: Event) -> Event:
        assert current_event() is event
        self.begun.append(event.id)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(1)
        finally:
            self.running -= 1
        if event.id in self.fails:
            raise self.fails[event.id]
        return event.reply(type="t", source="/r", data=event.id, id="r")


@virtual
async def test_of_more_than_there_is_room_for_some_are_refused_and_all_others_get_their_results(
    clock: LoopClock,
) -> None:
    """K-P6."""
    work = Work()
    stage = stages.queue(workers=4, capacity=1000, on_full="refuse", retry_after=7)
    handler = wrap(work, stage)
    async with stages.running(handler):
        results: list[Any] = await asyncio.gather(*start(handler, *range(1005)))
    refused = [result for result in results if not result]
    assert 1 <= len(refused) <= 5
    assert all((result.status, result.retry_after) == (503, 7) for result in refused)
    assert all(result.reply.data == str(number) for number, result in enumerate(results) if result)
    assert work.begun == [str(number) for number in range(1004)]
    assert work.most == 4
    assert clock.monotonic() == 251
    assert stage.counts == {"refused": 1}


@virtual
async def test_of_more_than_there_is_room_for_callers_wait() -> None:
    """K-C7: the one too many waits or is refused, as on_full says."""
    for on_full, last in (("wait", 200), ("refuse", 503)):
        stage = stages.queue(workers=1, capacity=10, on_full=on_full)  # type: ignore[arg-type]
        handler = wrap(Work(), stage)
        async with stages.running(handler):
            tasks = start(handler, *range(12))  # one runs, ten are queued
            await turns()
            assert [task.done() for task in tasks] == [False] * 11 + [last == 503]
            assert statuses(await asyncio.gather(*tasks)) == [200] * 11 + [last]


@virtual
async def test_nothing_is_acknowledged_before_it_is_done_and_failures_are_the_caller_s_own() -> None:
    """Trap 7."""
    handler = wrap(Work(**{"1": Reject(), "2": ValueError()}), stages.queue(workers=2))
    async with stages.running(handler):
        tasks = start(handler, *range(4))
        await asyncio.sleep(0.9)
        assert not any(task.done() for task in tasks)
        assert statuses(await asyncio.gather(*tasks)) == [200, 422, 500, 200]


@virtual
async def test_more_workers_may_come_while_one_works(clock: LoopClock) -> None:
    """K-P6, trap 17: all finish."""
    work = Work()
    stage = stages.queue(workers=1)
    handler = wrap(work, stage)
    async with stages.running(handler):
        tasks = start(handler, *range(9))
        await asyncio.sleep(0.5)
        assert stage.status == {"workers": 1, "running": 1, "waiting": 8}
        stage.resize(4)
        assert stage.parameters["workers"] == 4
        await turns()
        assert stage.running == 4
        assert statuses(await asyncio.gather(*tasks)) == [200] * 9
        assert clock.monotonic() == 3
        assert work.most == 4
        tasks = start(handler, *range(6))
        await turns()
        stage.resize(2)
        assert statuses(await asyncio.gather(*tasks)) == [200] * 6
        assert clock.monotonic() == 5
    with pytest.raises(ValueError, match="workers: must be 1 or more"):
        stage.resize(0)


@virtual
async def test_events_of_one_key_run_one_by_one_in_order_and_others_in_parallel(clock: LoopClock) -> None:
    """K-P6."""
    work = Work()
    handler = wrap(work, stages.queue(workers=3, key=lambda event: None if event.id[0] == "-" else event.id[0]))
    async with stages.running(handler):
        tasks = start(handler, "A1", "A2", "A3", "B1", "-1", "-2", "B2", "C1")
        results = await asyncio.gather(*tasks)
    assert statuses(results) == [200] * 8
    assert work.begun == ["A1", "B1", "-1", "-2", "C1", "A2", "B2", "A3"]
    assert work.most == 3
    assert clock.monotonic() == 3


@virtual
async def test_a_key_function_that_fails_is_a_failure_of_the_stage() -> None:
    handler = wrap(Work(), stages.queue(key=lambda event: event["missing"]))
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, 1))) == [500]


@virtual
async def test_a_peer_that_sends_no_single_value_as_key_is_refused_for_good() -> None:
    for store in (None, MemoryQueueStore()):
        handler = wrap(Work(), stages.queue(key=stages.field("data.key"), store=store))
        async with stages.running(handler):
            results = [await settle(handler, event) for event in (new(data={"key": []}), new(data={"key": {}}))]
            assert statuses(results) == [422, 422]


def test_a_key_function_is_not_async() -> None:
    async def later(event: Event) -> str:
        return "key"

    with pytest.raises(TypeError, match="key: must be a plain function, not an async one"):
        stages.queue(key=later)  # type: ignore[arg-type]


@virtual
async def test_who_leaves_frees_its_place_and_disturbs_no_other() -> None:
    work = Work()
    stage = stages.queue(workers=1, key=lambda event: event.id[0])
    handler = wrap(work, stage)
    async with stages.running(handler):
        tasks = start(handler, "A1", "A2", "B1", "B2", "A3", "A4", "C1")
        await asyncio.sleep(0.5)
        for number in (4, 2, 6):  # behind its key, ready with one behind, ready alone
            tasks[number].cancel()
        await asyncio.sleep(0.1)
        tasks[0].cancel()  # runs
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [
        True, False, True, False, True, False, True,
    ]  # fmt: skip
    assert sorted(work.begun) == ["A1", "A2", "A4", "B2"]
    assert work.begun.index("A2") < work.begun.index("A4")
    assert (stage.running, stage.waiting, stage._turns._keys, len(stage._turns._ready)) == (0, 0, {}, 0)  # type: ignore[attr-defined]


@virtual
async def test_a_worker_that_is_given_to_one_who_leaves_goes_to_the_next() -> None:
    work = Work()
    handler = wrap(work, stages.queue(workers=1))
    tasks: list[asyncio.Task[Result]] = []

    async def outer(event: Event) -> Any:
        try:
            return await handler(event)
        finally:
            tasks[1].cancel()  # it has just got the worker, and does not know it yet

    async with stages.running(handler):
        tasks += start(outer, 0) + start(handler, 1, 2)
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in results] == [False, True, False]
    assert work.begun == ["0", "2"]


@virtual
async def test_a_worker_is_not_given_to_one_who_leaves() -> None:
    seen: list[str] = []
    tasks: list[asyncio.Task[Result]] = []

    async def work(event: Event) -> None:
        seen.append(event.id)
        await asyncio.sleep(1)
        tasks[1].cancel()

    handler = wrap(work, stages.queue(workers=1, key=lambda event: int(event.id) % 2))
    async with stages.running(handler):
        tasks += start(handler, 0, 1, 3)
        await asyncio.gather(*tasks, return_exceptions=True)
    assert seen == ["0", "3"]


@virtual
async def test_fifty_tasks_some_of_which_leave() -> None:
    """K-P6: with real cancellation."""
    work = Work()
    stage = stages.queue(workers=4, key=lambda event: int(event.id) % 7)
    handler = wrap(work, stage)
    async with stages.running(handler):
        tasks = start(handler, *range(50))
        for number in range(0, 50, 3):
            asyncio.get_running_loop().call_later(number / 4, tasks[number].cancel)
        results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    for number, result in enumerate(results):
        if isinstance(result, asyncio.CancelledError):
            assert number % 3 == 0
        else:
            assert result.reply.data == str(number)
    for key in range(7):
        mine = [int(one) for one in work.begun if int(one) % 7 == key]
        assert mine == sorted(mine)
    assert (stage.running, stage.waiting, work.most) == (0, 0, 4)


@virtual
async def test_before_it_is_opened_and_after_it_is_closed_it_refuses() -> None:
    handler = wrap(Work(), stages.queue())
    assert statuses(await asyncio.gather(*start(handler, 1))) == [503]
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, 1))) == [200]
    assert statuses(await asyncio.gather(*start(handler, 1))) == [503]


@virtual
async def test_a_close_lets_all_that_is_queued_be_handled(clock: LoopClock) -> None:
    """K-P6, trap 12."""
    handler = wrap(Work(), stages.queue(workers=2, grace=10))
    async with stages.running(handler):
        tasks = start(handler, *range(9))
        await turns()
    assert clock.monotonic() == 5
    assert statuses(await asyncio.gather(*tasks)) == [200] * 9


@virtual
async def test_a_close_refuses_what_still_waits_after_its_grace_and_nobody_waits_for_ever(clock: LoopClock) -> None:
    """K-P6, trap 12."""
    stage = stages.queue(workers=2, grace=1.5, key=lambda event: int(event.id) % 3)
    handler = wrap(Work(), stage)
    async with stages.running(handler):
        tasks = start(handler, *range(9))
        await turns()
        tasks[8].cancel()
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert clock.monotonic() == 2  # those that ran were not cut off: they belong to their callers
    assert statuses(results[:8]) == [200, 200, 200, 200, 503, 503, 503, 503]
    assert (stage.running, stage.waiting, stage._turns._keys) == (0, 0, {})  # type: ignore[attr-defined]
    async with stages.running(handler):
        assert statuses(await asyncio.gather(*start(handler, *range(9)))) == [200] * 9


@virtual
async def test_one_who_leaves_while_a_close_refuses_him_just_leaves() -> None:
    stage = stages.queue(workers=1, grace=0.5)
    handler = wrap(Work(), stage)
    async with stages.running(handler):
        tasks = start(handler, 0, 1)
        await turns()
        loop = asyncio.get_running_loop()
        loop.call_at(0.5, lambda: loop.call_soon(tasks[1].cancel))
    results: list[Any] = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[1], asyncio.CancelledError) or results[1].status == 503
    assert (stage.running, stage.waiting) == (0, 0)


async def test_a_queued_event_takes_less_than_a_kilobyte() -> None:
    """K-P6: beyond the event, and the task of its caller, who waits without a queue just as long."""
    gate = asyncio.Event()

    async def work(event: Event) -> None:
        await gate.wait()

    async def cost(handler: Handler) -> float:
        events = [new(id=str(number), data={"n": number}) for number in range(1001)]
        gate.clear()
        async with stages.running(handler):
            first = asyncio.ensure_future(settle(handler, events[0]))
            await turns()
            tracemalloc.start()
            try:
                tasks = [asyncio.ensure_future(settle(handler, event)) for event in events[1:]]
                await turns()
                each = tracemalloc.get_traced_memory()[0] / 1000
            finally:
                tracemalloc.stop()
            gate.set()
            assert all(await asyncio.gather(first, *tasks))
        return each

    queue = stages.queue(workers=1, key=stages.order_key)
    assert await cost(wrap(work, queue)) - await cost(work) < 1024


def test_it_tells_its_settings() -> None:
    stage = stages.queue(name="work")
    assert (stage.kind, stage.name) == ("queue", "work")
    assert stage.parameters == {
        "workers": 4,
        "capacity": 1000,
        "on_full": "wait",
        "ordered": False,
        "grace": 10.0,
        "retry_after": 1.0,
    }


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("workers", 0, ValueError),
        ("capacity", 0, ValueError),
        ("on_full", "drop", ValueError),
        ("key", 5, TypeError),
        ("grace", -1, ValueError),
        ("retry_after", -1, ValueError),
        ("store", 5, TypeError),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"^{name}: must be "):
        stages.queue(**{name: value})


def test_without_a_store_nothing_is_tried_again_here() -> None:
    with pytest.raises(ValueError, match="are for a queue with a store"):
        stages.queue(retry=RetryPolicy())
