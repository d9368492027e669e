"""Time: the machine's clock, and one limit for many tasks."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from cloudevents_kit import Clock, SystemClock
from cloudevents_kit._deadline import Deadlines
from tests.support.clock import ManualClock

SHORT, LONG = 0.03, 30.0


async def limited(deadlines: Deadlines, work: Coroutine[Any, Any, Any], *, within: float | None = None) -> str:
    """Say how ``work`` ended under the limit."""
    try:
        with deadlines:
            if within is not None:
                deadlines.shorten(within)
            await work
    except TimeoutError:
        return "late"
    except asyncio.CancelledError:
        return "cancelled"
    return "done"


async def forever() -> None:
    await asyncio.Event().wait()


# -------------------------------------------------------------------------------------------------------- clocks


async def test_the_system_clock_tells_the_machines_time() -> None:
    clock: Clock = SystemClock()
    assert datetime.now(UTC) - clock.now() < timedelta(seconds=5)
    assert clock.now().utcoffset() == timedelta(0)
    assert abs(clock.monotonic() - time.monotonic()) < 5
    began = clock.monotonic()
    await clock.sleep(0.02)
    assert 0.015 < clock.monotonic() - began < 5


async def test_a_wait_of_the_system_clock_can_be_cancelled() -> None:
    sleeping = asyncio.create_task(SystemClock().sleep(LONG))
    await asyncio.sleep(0)
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping


async def test_the_clock_of_the_tests_is_a_clock() -> None:
    clock: Clock = ManualClock()
    began, now = clock.monotonic(), clock.now()
    await clock.sleep(60)
    assert (clock.monotonic() - began, clock.now() - now) == (60, timedelta(minutes=1))


# ----------------------------------------------------------------------------------------------------- deadlines


async def test_what_is_in_time_is_left_alone() -> None:
    deadlines = Deadlines(SHORT)
    for _ in range(3):
        assert await limited(deadlines, asyncio.sleep(0)) == "done"
    await asyncio.sleep(2 * SHORT)  # the timer finds nobody
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    deadlines.close()


async def test_what_takes_too_long_is_cancelled_and_raises_timeout_error_there() -> None:
    deadlines = Deadlines(SHORT)
    cleaned: list[bool] = []

    async def work() -> None:
        try:
            await forever()
        finally:
            cleaned.append(deadlines.in_time())

    began = time.monotonic()
    with pytest.raises(TimeoutError) as caught, deadlines:
        await work()
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)
    assert SHORT * 0.9 < time.monotonic() - began < 5
    assert cleaned == [False]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # the task goes on as if nothing had been


async def test_many_tasks_share_one_timer() -> None:
    deadlines = Deadlines(LONG)
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_at = loop.call_at

    def noting(*args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(call_at(*args, **kwargs))
        return timers[-1]

    loop.call_at = noting  # type: ignore[method-assign, assignment]
    try:
        tasks = [asyncio.create_task(limited(deadlines, forever())) for _ in range(300)]
        await asyncio.sleep(0)
    finally:
        loop.call_at = call_at  # type: ignore[method-assign]
    assert len(timers) == 1
    deadlines.expire_all()
    assert await asyncio.gather(*tasks) == ["late"] * 300
    deadlines.close()
    assert timers[0].cancelled()


async def test_many_tasks_expire_in_the_order_in_which_they_began() -> None:
    deadlines = Deadlines(SHORT)
    ended: list[int] = []

    async def one(number: int) -> None:
        if number % 3 == 0:
            assert await limited(deadlines, asyncio.sleep(0)) == "done"
        else:
            assert await limited(deadlines, forever()) == "late"
            ended.append(number)

    await asyncio.gather(*[one(number) for number in range(300)])
    assert ended == [number for number in range(300) if number % 3]


async def test_a_later_use_gets_its_whole_time() -> None:
    deadlines = Deadlines(0.06)
    first = asyncio.create_task(limited(deadlines, forever()))
    await asyncio.sleep(0.04)
    began = time.monotonic()
    assert await limited(deadlines, forever()) == "late"
    assert time.monotonic() - began > 0.05
    assert await first == "late"


async def test_a_cancellation_from_outside_passes_through() -> None:
    deadlines = Deadlines(LONG)
    task = asyncio.create_task(limited(deadlines, forever()))
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "cancelled"
    deadlines.close()


async def test_an_expiry_does_not_swallow_a_cancellation_from_outside() -> None:
    deadlines = Deadlines(LONG)
    task = asyncio.create_task(limited(deadlines, forever()))
    await asyncio.sleep(0)
    deadlines.expire_all()
    task.cancel()
    assert await task == "cancelled"
    assert task.cancelling() == 1
    deadlines.close()


async def test_an_expiry_after_a_cancellation_from_outside_is_no_timeout_either() -> None:
    deadlines = Deadlines(LONG)
    task = asyncio.create_task(limited(deadlines, forever()))
    await asyncio.sleep(0)
    task.cancel()
    deadlines.expire_all()
    assert await task == "cancelled"
    deadlines.close()


async def test_a_cancellation_that_was_taken_before_does_not_hide_an_expiry() -> None:
    """A task that cleans up after a cancellation, within a limit, is told when that is over."""
    deadlines = Deadlines(SHORT)

    async def stubborn() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return await limited(deadlines, forever())
        raise AssertionError

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "late"
    assert task.cancelling() == 1


async def test_an_error_at_the_end_of_the_time_is_not_replaced() -> None:
    deadlines = Deadlines(SHORT)

    async def work() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ValueError("broken") from None

    with pytest.raises(ValueError, match="broken"), deadlines:
        await work()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_success_that_comes_with_the_expiry_stays_one_and_can_be_told_apart() -> None:
    deadlines = Deadlines(SHORT)
    answer = ""
    with deadlines:
        assert deadlines.in_time()
        try:
            await forever()
        except asyncio.CancelledError:
            answer = "ready anyway"
        assert not deadlines.in_time()
    assert answer == "ready anyway"
    assert deadlines.in_time()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_use_can_be_given_less_time_but_never_more() -> None:
    deadlines = Deadlines(LONG)
    assert await limited(deadlines, forever(), within=SHORT) == "late"
    deadlines.close()
    deadlines = Deadlines(SHORT)
    began = time.monotonic()
    assert await limited(deadlines, forever(), within=LONG) == "late"
    assert time.monotonic() - began < LONG / 2


async def test_the_end_of_a_shorter_time_does_not_reach_a_later_use_of_the_same_task() -> None:
    deadlines = Deadlines(LONG)
    assert await limited(deadlines, asyncio.sleep(0), within=SHORT) == "done"
    assert await limited(deadlines, asyncio.sleep(3 * SHORT)) == "done"
    deadlines.close()


async def test_no_time_at_all_ends_at_the_first_wait() -> None:
    deadlines = Deadlines(LONG)
    assert await limited(deadlines, forever(), within=0.0) == "late"
    deadlines.close()


async def test_all_uses_can_be_ended_at_once() -> None:
    deadlines = Deadlines(LONG)
    tasks = [asyncio.create_task(limited(deadlines, forever())) for _ in range(5)]
    await asyncio.sleep(0)
    deadlines.expire_all()
    deadlines.expire_all()  # harmless when there is nothing left to end
    assert await asyncio.gather(*tasks) == ["late"] * 5
    deadlines.close()


async def test_after_close_what_runs_is_no_longer_limited_and_no_timer_is_left() -> None:
    deadlines = Deadlines(SHORT)
    running = asyncio.create_task(limited(deadlines, asyncio.sleep(3 * SHORT)))
    await asyncio.sleep(0)
    deadlines.close()
    deadlines.close()
    assert await running == "done"


async def test_a_use_after_close_is_limited_again() -> None:
    deadlines = Deadlines(SHORT)
    assert await limited(deadlines, asyncio.sleep(0)) == "done"
    deadlines.close()
    assert await limited(deadlines, forever()) == "late"


def test_a_loop_that_ended_without_close_does_not_lift_the_limit_in_the_next() -> None:
    deadlines = Deadlines(SHORT)
    for _ in range(2):
        assert asyncio.run(limited(deadlines, asyncio.sleep(0))) == "done"
        assert asyncio.run(limited(deadlines, forever())) == "late"


async def test_a_task_that_is_done_is_let_go_of() -> None:
    deadlines = Deadlines(LONG)
    task = asyncio.create_task(limited(deadlines, asyncio.sleep(0)))
    assert await task == "done"
    gone = weakref.ref(task)
    del task
    await asyncio.sleep(0)  # the loop itself held it until here
    gc.collect()
    assert gone() is None
    deadlines.close()


async def test_a_use_that_was_ended_already_is_not_ended_again() -> None:
    """Neither by the shorter limit it had of its own, nor by the common one."""
    deadlines = Deadlines(0.02)
    with pytest.raises(TimeoutError), deadlines:
        deadlines.shorten(0.01)
        deadlines.expire_all()
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            await asyncio.sleep(0.05)  # it is slow to end; the limits pass meanwhile
            raise
    deadlines.close()


async def test_a_use_inside_another_is_under_the_outer_limit() -> None:
    deadlines = Deadlines(0.05)
    with pytest.raises(TimeoutError), deadlines:
        with deadlines:
            deadlines.shorten(0.001)  # is for the outer use to say
            with deadlines:
                pass
        with deadlines:
            await asyncio.sleep(1)
    assert not deadlines._nested
    with deadlines:
        deadlines.expire_all()
        with pytest.raises(asyncio.CancelledError), deadlines:
            await asyncio.sleep(1)
    assert not deadlines._nested
    deadlines.close()


async def test_an_outer_use_goes_on_after_one_inside_it() -> None:
    deadlines = Deadlines(60)
    with deadlines:
        with deadlines:
            pass
        assert len(deadlines._running) == 1
    assert not deadlines._running
    deadlines.close()
