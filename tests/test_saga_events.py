"""Events for a saga: several at once, too early, too late; and services that react without one."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    Nack,
    Reject,
    Retry,
)
from cloudevents_kit.saga import Context, Wait, reacts
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.saga import EVENT, Shop, answer, over, saga, status
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_two_events_at_once_are_both_kept(clock: LoopClock) -> None:
    """K-D8.3. A version conflict is retried, and no update is lost; a copy is kept once."""

    class Slow(MemoryJournal):
        async def load(self, saga: str, id: str, /) -> Any:
            found = await super().load(saga, id)
            await asyncio.sleep(0)
            return found

    async def both(step: Context) -> list[str]:
        if len(step.events) < 10:
            raise Wait(100)
        return sorted(event.id for event in step.events)

    async with saga(Shop(), clock, both, Slow(clock=clock)) as order:
        await order(EVENT)
        await asyncio.sleep(1)
        cause = f"order/{order.id_of(EVENT)}/pay"
        events = [new(id=str(number), causationid=cause) for number in range(10)]
        await asyncio.gather(*(order.deliver(event) for event in [*events, *events]))
        report = await over(order)
    assert report.results["pay"] == [str(number) for number in range(10)]
    assert order.counts["conflicts"] > 0


@virtual
async def test_a_saga_keeps_only_so_many_events(clock: LoopClock) -> None:
    async def wait(step: Context) -> None:
        raise Wait(1000)

    async with saga(Shop(), clock, wait) as order:
        await order(EVENT)
        cause = f"order/{order.id_of(EVENT)}/pay"
        ids = [*map(str, range(101)), "0"]  # the last one is a copy, which is there already
        results = [await answer(order.deliver, new(id=id, causationid=cause)) for id in ids]
    assert [result.status for result in results] == [204] * 100 + [429, 204]


@virtual
async def test_a_stuck_saga_keeps_events_and_stays_stuck(clock: LoopClock) -> None:
    shop = Shop(ship=[Reject()], pay_undo=[Reject()])
    async with saga(shop, clock, shop.work("pay")) as order:
        await order(EVENT)
        report = await over(order)
        await order.deliver(new(id="2", causationid=f"order/{report.id}/pay:undo"))
        await asyncio.sleep(100)
        assert (await over(order)).status == "stuck"
        await order.resume(report.id)
        await asyncio.sleep(1)
    assert shop.contexts[-1].key.endswith("reserve:undo")
    assert [event.id for event in shop.contexts[-1].events] == ["2"]


# Events for a saga that has not started.


@virtual
async def test_an_event_for_a_saga_that_has_not_started_is_to_be_sent_again(clock: LoopClock) -> None:
    """K-D8.4."""
    early = new(id="early", order="7")
    shop = Shop()
    async with saga(shop, clock, _first_event, key=lambda event: event["order"]) as order:
        refused = await answer(order.deliver, early)
        await order(EVENT.evolve(order="7"))
        taken = await answer(order.deliver, early)
        report = await over(order, EVENT.evolve(order="7"))
    assert isinstance(refused, Nack)
    assert (refused.status, refused.retryable, taken.is_ack) == (503, True, True)
    assert report.results["pay"] == "early"


async def _first_event(step: Context) -> str:
    if not step.events:
        raise Wait(100)
    return step.events[0].id


@virtual
async def test_an_event_for_a_saga_that_has_not_started_is_parked_until_it_does(clock: LoopClock) -> None:
    """K-D8.4."""
    given: dict[str, Any] = {"key": lambda event: event["order"], "unknown": "park", "retention": 100}
    async with saga(Shop(), clock, _first_event, **given) as order:
        for number in "12":
            await order.deliver(new(id=number, order="7"))
        assert await status(order, "7") == "parked"
        await asyncio.sleep(90)
        await order(EVENT.evolve(order="7"))
        report = await over(order, EVENT.evolve(order="7"))
        await order.deliver(new(id="3", order="7"))  # late
        await asyncio.sleep(110)
        await order.deliver(new(id="4", order="7"))  # for the next saga of this name
        assert await status(order, "7") == "parked"
    assert report.results["pay"] == "1"


@virtual
async def test_what_stays_parked_becomes_a_dead_letter(clock: LoopClock) -> None:
    """K-D8.4."""
    letters: list[str] = []

    async def letter(event: Event, error: Exception) -> None:
        if not letters:
            letters.append("full")
            raise OSError("full")
        letters.append(f"{event.id}: {error}")

    given: dict[str, Any] = {"key": lambda event: event["order"], "unknown": "park", "retention": 100}
    async with saga(Shop(), clock, _first_event, **given, dead_letter=letter) as order:
        for number in "12":
            await order.deliver(new(id=number, order="7"))
        await asyncio.sleep(300)
        assert await order.find("7") is None
    assert letters == ["full", "1: saga order: 7 was never started", "2: saga order: 7 was never started"]


@virtual
async def test_an_event_that_comes_while_what_is_parked_is_handed_over_is_kept(clock: LoopClock) -> None:
    """K-D8.4."""
    letters: list[str] = []

    async def letter(event: Event, error: Exception) -> None:
        if event.id == "1":
            await order.deliver(new(id="3", order="7"))
        letters.append(event.id)

    given: dict[str, Any] = {"key": lambda event: event["order"], "unknown": "park", "retention": 100}
    async with saga(Shop(), clock, _first_event, **given, dead_letter=letter) as order:
        for number in "12":
            await order.deliver(new(id=number, order="7"))
        await asyncio.sleep(150)
        assert letters == ["1", "2"]
        assert await status(order, "7") == "parked"
        await asyncio.sleep(60)
        assert letters == ["1", "2", "3"]
        await order.deliver(new(id="4", order="7"))  # before that one is forgotten
        await asyncio.sleep(300)
    assert letters == ["1", "2", "3", "4"]


@virtual
async def test_what_stays_parked_without_a_hook_stays(clock: LoopClock, caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"key": lambda event: event["order"], "unknown": "park", "retention": 100}
    async with saga(Shop(), clock, _first_event, **given) as order:
        await order.deliver(new(id="1", order="7"))
        await asyncio.sleep(1000)
        await order(EVENT.evolve(order="7"))
        assert (await over(order, EVENT.evolve(order="7"))).results["pay"] == "1"
    assert "1 events stay parked" in caplog.text


@pytest.mark.parametrize("cause", [None, "", "x", "order", "order/", "order/1", "other/1/pay", "order//pay"])
@virtual
async def test_an_event_that_names_no_step_is_refused(clock: LoopClock, cause: str | None) -> None:
    order = saga(Shop(), clock, _first_event)
    given = {} if not cause else {"causationid": cause}
    assert (await answer(order.deliver, new(**given))).status == 422


@virtual
async def test_a_key_that_is_no_text_is_an_error(clock: LoopClock) -> None:
    number: Any = 5
    async with saga(Shop(), clock, _first_event, key=lambda event: number) as order:
        with pytest.raises(TypeError, match=r"^key"):
            await order(EVENT)


@virtual
async def test_a_key_that_is_no_short_text_is_digested(clock: LoopClock) -> None:
    order = saga(Shop(), clock, _first_event, key=lambda event: event["order"])
    assert order.id_of(EVENT.evolve(order="7")) == "7"
    ids = {order.id_of(EVENT.evolve(order=text)) for text in ("x" * 129, "x" * 130)}
    assert sorted(map(len, ids)) == [64, 64]


# Choreography.


async def test_services_react_to_each_other_and_take_back_what_they_did() -> None:
    stock: list[str] = []
    reserve = reacts(lambda event: stock.append(event.id), source="/stock", done="reserved")
    release = reacts(lambda event: stock.clear(), source="/stock", done="released")

    async def pay(event: Event) -> dict[str, int]:
        if not event.data:
            raise Reject("no money")
        return event.data  # type: ignore[no-any-return]

    charge = reacts(pay, source="/bank", done="paid", failed="unpaid")
    reserved: Any = await reserve(EVENT)
    assert (reserved.type, reserved["causationid"], reserved["correlationid"]) == ("reserved", "1", "1")
    unpaid: Any = await charge(reserved)
    assert (unpaid.type, unpaid.data, unpaid["correlationid"]) == ("unpaid", {"reason": "no money"}, "1")
    again: Any = await charge(reserved)
    assert unpaid.key == again.key
    paid: Any = await charge(EVENT)
    assert (paid.type, paid.data) == ("paid", EVENT.data)
    released: Any = await release(unpaid)
    assert (released.type, stock) == ("released", [])


async def test_a_reaction_that_may_succeed_later_or_has_no_failure_is_refused() -> None:
    async def later(event: Event) -> None:
        raise Retry

    async def never(event: Event) -> None:
        raise Reject

    assert (await answer(reacts(later, source="/s", done="d", failed="f"), EVENT)).status == 503
    assert (await answer(reacts(never, source="/s", done="d"), EVENT)).status == 422
    with pytest.raises(TypeError, match="done"):
        reacts(later, source="/s", done=5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^function: must be callable, not NoneType"):
        reacts(None, source="/s", done="d")
