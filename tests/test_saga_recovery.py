"""Sagas that are cut off: by a close, a death, a lease that runs out, a journal that fails, another release."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Reject
from cloudevents_kit.saga import Context, Journal, Step, Wait
from cloudevents_kit.stores.memory_journal import MemoryJournal
from cloudevents_kit.testing import JournalConformance
from tests.support.clock import ManualClock
from tests.support.events import new
from tests.support.saga import EVENT, Shop, answer, over
from tests.support.virtual import LoopClock, virtual


class TestMemory(JournalConformance):
    clock = ManualClock()

    @pytest.fixture
    def journal(self) -> Journal:
        return MemoryJournal(clock=self.clock)

    async def passes(self, ticks: float) -> None:
        await self.clock.sleep(ticks * self.tick)


@virtual
async def test_what_is_not_open_takes_nothing(clock: LoopClock) -> None:
    saga = Shop().saga(clock)
    with pytest.raises(RuntimeError, match="must be open"):
        await saga(EVENT)


@virtual
async def test_a_close_lets_the_step_end_and_the_next_opening_goes_on(clock: LoopClock) -> None:
    shop, journal = Shop(), MemoryJournal(clock=clock)
    shop.takes = 5
    async with shop.saga(clock, journal) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
    assert (shop.done, clock.monotonic()) == (["reserve"], 5)
    async with saga, saga:
        assert (await over(saga)).status == "completed"
    assert shop.done == ["reserve", "pay", "ship"]


@virtual
async def test_a_step_that_a_close_cuts_off_is_in_doubt_and_run_again_at_once(clock: LoopClock) -> None:
    shop, journal = Shop(), MemoryJournal(clock=clock)
    shop.takes = 50
    async with shop.saga(clock, journal, grace=1) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
    shop.takes = 0
    async with shop.saga(clock, journal) as saga:
        await over(saga)
        assert clock.monotonic() < 3
    assert [(one.attempt, one.in_doubt) for one in shop.contexts[:2]] == [(1, False), (2, True)]
    assert shop.contexts[0].key == shop.contexts[1].key


@virtual
async def test_a_step_whose_process_died_is_run_again_when_the_lease_ends(clock: LoopClock) -> None:
    """K-D8.5. The restart goes on in the middle."""
    shop, journal = Shop(), MemoryJournal(clock=clock)
    shop.fails["pay"] = [_Killed()]  # type: ignore[list-item]
    died = shop.saga(clock, journal, concurrency=0)
    async with died:
        await died(EVENT)
        with pytest.raises(_Killed):
            await died.work()
        assert shop.done == ["reserve"]
        async with shop.saga(clock, journal, lease=30) as saga:
            await over(saga)
            assert 60 <= clock.monotonic() < 62
    assert shop.done == ["reserve", "pay", "ship"]
    assert [(one.attempt, one.in_doubt) for one in shop.contexts[1:3]] == [(1, False), (2, True)]


class _Killed(BaseException):
    pass


@virtual
async def test_a_step_that_kills_every_process_is_given_up(clock: LoopClock) -> None:
    shop = Shop(pay=[_Killed() for _ in range(99)])  # type: ignore[misc]
    async with shop.saga(clock, concurrency=0) as saga:
        await saga(EVENT)
        for _ in range(40):
            try:
                await saga.work()
            except _Killed:
                await asyncio.sleep(60)
        report: Any = await saga.find(saga.id_of(EVENT))
    assert (report.status, report.compensated) == ("compensated", ("pay", "reserve"))
    assert len(shop.fails["pay"]) == 99 - 21


@virtual
async def test_who_was_overtaken_leaves_the_saga_to_the_other(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    journal, shop = MemoryJournal(clock=clock), Shop()

    async def slow(step: Context) -> str:
        if step.attempt == 1:  # the lease runs out because the journal's clock goes fast
            (kept,) = journal._kept.values()
            kept.due = 0.0
            await journal.lease("order", 0.0, "thief")
        return "done"

    async with shop.saga(clock, journal, steps=[Step("a", slow), shop.step("b")], concurrency=1) as saga:
        await saga(EVENT)
        report = await over(saga)
    assert (report.status, shop.done, saga.counts["overtaken"]) == ("completed", ["b"], 1)
    assert "somebody else goes on" in caplog.text


@virtual
async def test_a_journal_that_fails_for_a_while_delays_and_loses_nothing(
    clock: LoopClock, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D8.2. The step runs again if what it did could not be saved."""

    class Failing(MemoryJournal):
        fails = 0

        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            if given["version"] == 3 and self.fails < 1:  # after the first step
                self.fails += 1
                raise OSError("disk full")
            return await super().save(saga, id, state, **given)

    shop = Shop()
    async with shop.saga(clock, Failing(), lease=10) as saga:
        await saga(EVENT)
        await over(saga)
    assert shop.done == ["reserve", "reserve", "pay", "ship"]
    assert shop.contexts[0].key == shop.contexts[1].key
    assert saga.counts["store_failed"] == 1
    assert "the journal failed" in caplog.text


@virtual
async def test_a_save_whose_answer_was_lost_is_made_again(clock: LoopClock) -> None:
    """K-D8.2."""

    class Doubtful(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            return await super().save(saga, id, state, **given) and given["version"] != 3

    shop = Shop()
    async with shop.saga(clock, Doubtful(clock=clock)) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
    assert (shop.done, saga.counts["conflicts"]) == (["reserve", "pay", "ship"], 1)


@virtual
async def test_no_act_begins_when_the_journal_took_as_long_as_the_lease(clock: LoopClock) -> None:
    class Slow(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            saved = await super().save(saga, id, state, **given)
            await asyncio.sleep(9.5 if given["version"] == 2 else 0)
            return saved

    shop = Shop()
    async with shop.saga(clock, Slow(clock=clock), lease=10) as saga:
        await saga(EVENT)
        assert (await over(saga)).status == "completed"
    assert saga.counts["overtaken"] == 1
    assert shop.contexts[0].in_doubt  # as far as the next one could know


@virtual
async def test_a_close_does_not_wait_for_pauses(clock: LoopClock) -> None:
    shop = Shop(reserve=[OSError()])
    async with shop.saga(clock, poll=60) as saga:
        await saga(EVENT)
        await asyncio.sleep(1)
    assert clock.monotonic() == 1


@virtual
async def test_an_event_is_not_acknowledged_if_it_could_not_be_stored(clock: LoopClock) -> None:
    class Failing(MemoryJournal):
        async def save(self, saga: str, id: str, state: bytes, /, **given: Any) -> bool:
            raise OSError("disk full")

    async with Shop().saga(clock, Failing(clock=clock)) as saga:
        found = await answer(saga, EVENT)
        assert (found.status, await saga.find(saga.id_of(EVENT))) == (500, None)


@virtual
async def test_a_start_that_meets_an_entry_just_forgotten_starts_anew(clock: LoopClock) -> None:
    class Blinking(MemoryJournal):
        async def load(self, saga: str, id: str, /) -> Any:
            self._kept.clear()

    journal, shop = Blinking(clock=clock), Shop()
    await journal.save("order", shop.saga(clock).id_of(EVENT), b"{}", version=0, due=None, lease="", expires=0)
    async with shop.saga(clock, journal) as saga:
        assert await saga(EVENT) is ACCEPTED
        await asyncio.sleep(1)
    assert shop.done == ["reserve", "pay", "ship"]


# Steps that are gone, or new.


@virtual
async def test_a_step_that_is_not_known_any_more_cannot_be_compensated(clock: LoopClock) -> None:
    journal, shop = MemoryJournal(clock=clock), Shop(pay=[Wait(1000)])
    async with shop.saga(clock, journal) as old:
        await old(EVENT)
        await asyncio.sleep(1)
    shop.fails["pay"] = [Reject("no money")]
    async with shop.saga(clock, journal, steps=[shop.step("pay"), shop.step("ship")]) as saga:
        report = await over(saga)
        assert report.status == "stuck"
        assert report.reason == "step pay: Reject: no money"
        assert report.errors["reserve:undo"] == "the step is not known any more"
        assert await saga.resume(report.id)
        assert (await over(saga)).status == "stuck"
    async with shop.saga(clock, journal) as old:
        assert await old.resume(report.id)
        assert (await over(old)).status == "compensated"
    assert shop.done == ["reserve", "reserve_undo"]


@virtual
async def test_a_step_that_is_new_in_the_middle_is_done_by_sagas_that_have_not_ended(clock: LoopClock) -> None:
    """Those that are over stay as they are; what was done is taken back in the order in which it was done."""
    journal, shop = MemoryJournal(clock=clock), Shop(ship=[Wait(1000)])
    steps = [shop.step("reserve"), shop.step("ship")]
    async with shop.saga(clock, journal, steps=steps) as old:
        await old(EVENT)
        await asyncio.sleep(1)
        shop.fails["ship"] = []
        await old(EVENT.evolve(id="over"))
        assert (await over(old, EVENT.evolve(id="over"))).status == "completed"
    shop.done.clear()
    shop.fails["ship"] = [Reject()]
    async with shop.saga(clock, journal, steps=[shop.step("check"), *steps]) as saga:
        await saga.deliver(new(causationid=f"order/{saga.id_of(EVENT)}/ship"))  # which wakes it
        assert (await over(saga)).compensated == ("check", "reserve")
        assert (await over(saga, EVENT.evolve(id="over"))).status == "completed"
    assert shop.done == ["check", "check_undo", "reserve_undo"]
