"""Who looks for sagas: by their ids, or all that are stuck; and resumes them."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Event, Reject
from cloudevents_kit.dead_letter import keeper, letters
from cloudevents_kit.saga import SagaError, Step, Wait
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.saga import EVENT, Shop, answer, over
from tests.support.virtual import LoopClock, virtual


def orders(count: int) -> list[Event]:
    return [new(id=f"{number:03}") for number in range(count)]


async def ids(saga: Any, *statuses: Any) -> list[str]:
    return [report.id async for report in saga.reports(*statuses)]


@virtual
async def test_the_sagas_of_a_status_are_found_without_their_ids(clock: LoopClock) -> None:
    shop = Shop(a=[Reject(), Wait(1000)])
    given: dict[str, Any] = {"key": lambda event: event.id, "steps": [Step("x", shop.work("x"), shop.work("x_undo"))]}
    journal = MemoryJournal(clock=clock)
    async with shop.saga(clock, journal, **given) as completes:
        for event in orders(120):
            await completes(event)
        await over(completes, new(id="119"))
        shop.fails["x_undo"] = [Reject("the shelf is gone")] * 3
        steps = [*given.pop("steps"), shop.step("a")]
    async with shop.saga(clock, journal, steps=steps, **given) as saga:
        shop.fails["a"] = [Reject("no")] * 3 + [Wait(1000)]
        for id in ("stuck 1", "stuck 2", "stuck 3", "waits"):
            await saga(new(id=id))
            await asyncio.sleep(5)
        all_of_them = [f"{number:03}" for number in range(120)]
        assert await ids(saga) == [*all_of_them, "stuck 1", "stuck 2", "stuck 3", "waits"]
        assert await ids(saga, "completed") == all_of_them
        assert await ids(saga, "running", "compensated") == ["waits"]
        assert await ids(saga, "stuck") == ["stuck 1", "stuck 2", "stuck 3"]
        async for report in saga.reports("stuck"):
            assert report.errors["x:undo"] == "Reject: the shelf is gone"
            assert await saga.resume(report.id)
        await asyncio.sleep(5)
        assert await ids(saga, "stuck") == []
        assert await ids(saga, "compensated") == ["stuck 1", "stuck 2", "stuck 3"]
    async with Shop().saga(clock, journal) as closed:
        pass
    assert await ids(closed, "running") == ["waits"]


@virtual
async def test_a_search_for_what_no_saga_can_be_is_an_error(clock: LoopClock) -> None:
    with pytest.raises(ValueError, match=r"^statuses: must be of parked, .*, not 'stick'$"):
        await ids(Shop().saga(clock), "stick")


@virtual
async def test_what_is_looked_for_is_named_by_an_id(clock: LoopClock) -> None:
    saga = Shop().saga(clock)
    wrong: Any = EVENT
    for look in (saga.find, saga.resume):
        with pytest.raises(TypeError, match=r"^id: must be a str.*, not Event \(id_of\(event\) tells it\)$"):
            await look(wrong)
    for wrong in ("7", None):
        with pytest.raises(TypeError, match=r"^event: must be an Event, not "):
            saga.id_of(wrong)
        with pytest.raises(TypeError, match=r"^event: must be an Event, not "):
            await saga.deliver(wrong)


@virtual
async def test_a_saga_is_resumed_only_if_it_is_stuck(clock: LoopClock) -> None:
    shop = Shop(pay=[Wait(10)])
    async with shop.saga(clock) as saga:
        with pytest.raises(LookupError, match="saga order: there is none with the id '7'"):
            await saga.resume("7")
        await saga(EVENT)
        await asyncio.sleep(1)
        id = saga.id_of(EVENT)
        assert not await saga.resume(id)
        await over(saga)
        with pytest.raises(SagaError, match=f"saga order: {id} is completed: there is nothing to resume"):
            await saga.resume(id)


@pytest.mark.parametrize("done", ["pay", b"ship", None])
@virtual
async def test_what_was_done_by_hand_is_a_list(clock: LoopClock, done: Any) -> None:
    shop = Shop(ship=[Reject()], pay_undo=[Reject()])
    async with shop.saga(clock) as saga:
        await saga(EVENT)
        id = (await over(saga)).id
        with pytest.raises((TypeError), match=r"^done: must be names of steps in a list, not "):
            await saga.resume(id, done=done)
        assert (await over(saga)).status == "stuck"


@pytest.mark.parametrize("key", [None, ""])
@virtual
async def test_an_event_that_names_no_saga_is_refused_for_good(clock: LoopClock, key: Any) -> None:
    async with Shop().saga(clock, key=lambda event: key) as saga:
        for handler in (saga, saga.deliver):
            refused = await answer(handler, EVENT)
            assert (refused.status, refused.retryable) == (422, False)
            assert refused.reason == "the event has no key that names its order"


@virtual
async def test_a_dead_letter_names_errors_as_the_package_does_and_is_removed_once_all_is_settled(
    clock: LoopClock,
) -> None:
    shop = Shop(ship=[Reject()], pay_undo=[Reject()])
    async with open_store("memory:") as store:
        kept = store.dead_letters
        async with shop.saga(clock, dead_letter=keeper(kept, "orders")) as saga:
            await saga(EVENT)
            report = await over(saga)
            (letter,) = [letter async for letter in letters(kept)]
            assert (letter.error, saga.id_of(letter.event)) == ("SagaError", report.id)
            await saga.resume(report.id, done=["pay"])
            assert (await over(saga)).status == "compensated"
            leased = await kept.lease(letter.id, 60)
            assert leased is not None
            assert await kept.settle(letter.id, leased[0], None)
            assert [letter async for letter in letters(kept)] == []
