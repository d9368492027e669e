"""Who drives sagas, and when: clocks, leases, idle processes, callers that leave, work by hand."""

import asyncio
import threading
from datetime import datetime, timedelta
from typing import Any

import pytest

from cloudevents_kit import Reject
from cloudevents_kit.saga import Context, Saga, Step
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.saga import EVENT, Shop, over
from tests.support.virtual import LoopClock, virtual

# Clocks.


class Ahead(LoopClock):
    """A wall clock that is wrong, and jumps."""

    def __init__(self, seconds: float) -> None:
        self.ahead = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.mark.parametrize("ahead", [3600, -3600])
@virtual
async def test_leases_do_not_go_by_the_clocks_of_processes(clock: LoopClock, ahead: float) -> None:
    """One clock is an hour wrong, and the saga is left to whoever has it all the same."""
    journal, shop = MemoryJournal(clock=clock), Shop()
    shop.takes = 20
    async with shop.saga(clock, journal) as here, shop.saga(Ahead(ahead), journal) as there:
        for number in range(4):
            await here(EVENT.evolve(id=str(number)))
        for number in range(4):
            assert (await over(here, EVENT.evolve(id=str(number)))).status == "completed"
    assert sorted(shop.done) == sorted(["reserve", "pay", "ship"] * 4)
    assert here.counts["overtaken"] + there.counts["overtaken"] == 0
    assert here.counts["completed"] + there.counts["completed"] == 4


@virtual
async def test_a_step_ends_within_its_lease_also_if_the_clock_is_set_back_meanwhile(clock: LoopClock) -> None:
    jumping, shop = Ahead(0), Shop()

    class Slow(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            jumping.ahead -= timedelta(seconds=1000)
            return await super().save(saga, id, state, **given)

    shop.takes = 1000
    async with shop.saga(jumping, Slow(clock=clock), lease=60, concurrency=0) as saga:
        await saga(EVENT)
        began = clock.monotonic()
        assert await saga.work()
        assert clock.monotonic() - began == 54
    assert shop.done == []


# What it costs to wait.


@virtual
async def test_a_process_with_nothing_to_do_looks_once_in_a_while_and_not_once_per_worker(clock: LoopClock) -> None:
    class Counting(MemoryJournal):
        looks = 0

        async def lease(self, saga: str, seconds: float, token: str, /) -> Any:
            self.looks += 1
            return await super().lease(saga, seconds, token)

    journal, shop = Counting(clock=clock), Shop()
    async with shop.saga(clock, journal, concurrency=50, poll=2):
        await asyncio.sleep(100)
    assert 50 <= journal.looks <= 52


@virtual
async def test_no_more_sagas_are_driven_at_once_than_asked_for(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 10
    async with shop.saga(clock, steps=[shop.step("a")], concurrency=3) as saga:
        for number in range(7):
            await saga(EVENT.evolve(id=str(number)))
        await asyncio.sleep(9)
        assert len(shop.contexts) == 3
        await over(saga, EVENT.evolve(id="6"))
        assert 30 <= clock.monotonic() < 31


# Who asked for it, and who drives it by hand.


@virtual
async def test_a_caller_that_does_not_wait_any_more_changes_nothing(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 1
    async with shop.saga(clock, wait=True) as saga:
        waiting = asyncio.create_task(saga(EVENT))
        await asyncio.sleep(1.5)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await over(saga)).status == "completed"
        assert await saga(EVENT) is None
    assert shop.done == ["reserve", "pay", "ship"]


@virtual
async def test_who_works_by_hand_may_do_so_also_after_a_close(clock: LoopClock) -> None:
    shop = Shop()
    saga = shop.saga(clock, concurrency=0)
    async with saga:
        await saga(EVENT)
    assert [await saga.work(), await saga.work()] == [True, False]
    assert shop.done == ["reserve", "pay", "ship"]


@virtual
async def test_what_was_leased_while_it_was_closed_is_given_back_at_once(clock: LoopClock) -> None:
    class Slow(MemoryJournal):
        async def lease(self, saga: str, seconds: float, token: str, /) -> Any:
            found = await super().lease(saga, seconds, token)
            await asyncio.sleep(1)
            return found

    journal, shop = Slow(clock=clock), Shop()
    async with shop.saga(clock, journal) as saga:
        await saga(EVENT)
        await asyncio.sleep(0.5)
    (kept,) = journal._kept.values()
    assert (shop.done, kept.lease) == ([], "")
    assert kept.due is not None
    assert kept.due <= clock.monotonic()


async def test_a_plain_function_that_a_close_cuts_off_has_until_the_end_of_its_lease() -> None:
    """It runs on in its thread; somebody else must not take it back meanwhile."""
    journal, begun, go_on = MemoryJournal(), threading.Event(), threading.Event()

    def pay(step: Context) -> None:
        begun.set()
        go_on.wait(10)

    async with Saga("order", [Step("pay", pay)], journal=journal, grace=0) as saga:
        await saga(EVENT)
        await asyncio.to_thread(begun.wait, 10)
    go_on.set()
    (kept,) = journal._kept.values()
    assert kept.lease
    assert not await saga.work()


def test_a_saga_may_be_opened_in_one_loop_after_the_other() -> None:
    journal, done = MemoryJournal(), []
    saga = Saga("order", [Step("a", lambda step: done.append(step.key))], journal=journal, wait=True)

    async def use(id: str) -> None:
        async with saga:
            await asyncio.sleep(0.01)
            await saga(EVENT.evolve(id=id))

    asyncio.run(use("1"))
    asyncio.run(use("2"))
    assert len(done) == 2


@virtual
async def test_a_journal_that_cannot_be_read_for_a_while_is_told_and_looked_at_again(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(MemoryJournal):
        async def lease(self, saga: str, seconds: float, token: str, /) -> Any:
            if clock.monotonic() < 5:
                raise OSError("no connection")
            return await super().lease(saga, seconds, token)

    async with Shop().saga(clock, Failing(clock=clock)) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
        assert 5 <= clock.monotonic() <= 7
    assert saga.counts["store_failed"] == 5  # once a second
    assert "no connection" in caplog.text


@virtual
async def test_a_resume_that_meets_an_event_for_the_saga_tries_again(clock: LoopClock) -> None:
    class Busy(MemoryJournal):
        async def load(self, saga: str, id: str, /) -> Any:
            found: Any = await super().load(saga, id)
            if resuming:
                resuming.pop()
                await order.deliver(new(id="2", causationid=f"order/{id}/pay"))
            return found

    resuming: list[int] = []
    shop = Shop(ship=[Reject()], pay_undo=[Reject()])
    async with shop.saga(clock, Busy(clock=clock)) as order:
        await order(EVENT)
        report = await over(order)
        resuming.append(1)
        assert await order.resume(report.id)
        assert (await over(order)).status == "compensated"
    assert [event.id for event in shop.contexts[-1].events] == ["2"]
