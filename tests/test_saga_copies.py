"""Sagas and copies of the event that starts one: no step is run twice, and all get the same answer."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import ACCEPTED, Event, Reject
from cloudevents_kit.saga import Context
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.saga import EVENT, Shop, answer, over
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_five_copies_at_once_run_each_step_once(clock: LoopClock) -> None:
    """K-D8.3."""
    shop = Shop()
    shop.takes = 1
    async with shop.saga(clock) as saga:
        assert await asyncio.gather(*(saga(EVENT) for _ in range(5))) == [ACCEPTED] * 5
        await over(saga)
        assert await saga(EVENT) is ACCEPTED
        await asyncio.sleep(100)
    assert shop.done == ["reserve", "pay", "ship"]
    assert (saga.counts["started"], saga.counts["repeated"]) == (1, 5)


@virtual
async def test_within_retention_a_copy_starts_nothing_and_after_it_a_new_saga(clock: LoopClock) -> None:
    """K-D8.3."""
    shop = Shop()
    async with shop.saga(clock, retention=100) as saga:
        await saga(EVENT)
        await over(saga)
        await asyncio.sleep(98)
        await saga(EVENT)
        assert len(shop.done) == 3
        await asyncio.sleep(2)
        await saga(EVENT)
        await over(saga)
        assert len(shop.done) == 6
        await asyncio.sleep(200)
        assert await saga.find(saga.id_of(EVENT)) is None
    assert saga.counts["forgotten"] == 1


@virtual
async def test_events_of_other_sources_start_sagas_of_their_own(clock: LoopClock) -> None:
    shop = Shop()
    async with shop.saga(clock) as saga:
        for event in (EVENT, EVENT.evolve(source="/other"), EVENT.evolve(id="2")):
            await saga(event)
            await over(saga, event)
    assert saga.counts["completed"] == 3


@virtual
async def test_another_event_with_the_same_key_is_refused(clock: LoopClock) -> None:
    shop = Shop()
    async with shop.saga(clock, key=lambda event: str(event.data["number"])) as saga:
        await saga(EVENT)
        found = await answer(saga, EVENT.evolve(id="2"))
        assert (found.status, (await over(saga)).id) == (422, "7")


# The answer at the end.


@virtual
async def test_the_answer_may_wait_for_the_end_and_is_the_same_for_every_copy(clock: LoopClock) -> None:
    shop = Shop()
    shop.takes = 1

    def reply(saga: Context) -> Event:
        return saga.make(type="order.done", source="/shop", data=saga.results["ship"])

    async with shop.saga(clock, reply=reply) as saga:
        first, second = await asyncio.gather(saga(EVENT), saga(EVENT))
        assert clock.monotonic() == 3
        third = await saga(EVENT)
    assert isinstance(first, Event)
    assert first == second == third
    assert (first.data, first["causationid"]) == ({"did": "ship"}, EVENT.id)


@pytest.mark.parametrize(
    ("fails", "status", "reason"),
    [
        ({}, 204, ""),
        (
            {"ship": [Reject("no such\n" + 300 * "x")]},
            422,
            f"this order was compensated: step ship: no such {192 * 'x'}",
        ),
        ({"ship": [OSError("secret")] * 3}, 422, "this order was compensated: step ship: failed"),
        ({"ship": [Reject("no")], "pay_undo": [Reject("x")]}, 422, "this order is stuck: step ship: no"),
    ],
)
@virtual
async def test_whoever_waits_learns_how_it_ended(
    clock: LoopClock, fails: dict[str, Any], status: int, reason: str
) -> None:
    async with Shop(**fails).saga(clock, wait=True) as saga:
        for _ in range(2):
            found = await answer(saga, EVENT)
            assert (found.status, getattr(found, "reason", "")) == (status, reason)


@virtual
async def test_whoever_waits_learns_what_another_process_did_and_what_was_forgotten(clock: LoopClock) -> None:
    journal, shop = MemoryJournal(clock=clock), Shop()
    async with shop.saga(clock, journal, wait=True, concurrency=0) as here, shop.saga(clock, journal) as there:
        assert await here(EVENT) is None
        waiting = asyncio.create_task(here(EVENT.evolve(id="2")))
        await asyncio.sleep(0)
        journal._kept.clear()
        assert (await answer(_awaiting(waiting), EVENT)).reason == "this order was forgotten"
    assert there.counts["completed"] == 1


def _awaiting(task: asyncio.Task[Any]) -> Any:
    async def wait(_: Event) -> Any:
        return await task

    return wait
