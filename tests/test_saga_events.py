"""Sagas and services: steps that ask by event, answers that come later, events that come too early or too late."""

import asyncio
from typing import Any
from unittest.mock import ANY

import pytest

from cloudevents_kit import (
    ACCEPTED,
    Ack,
    Event,
    HandlerSink,
    Nack,
    Outcome,
    Receiver,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Router,
    Sender,
    Undelivered,
    stages,
    wrap,
)
from cloudevents_kit.request_reply import Requests
from cloudevents_kit.saga import Context, Saga, Step, Wait, ask, reacts
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.virtual import LoopClock, virtual
from tests.test_saga import EVENT, Shop, answer, over


def command(step: Context) -> Event:
    return step.make(type="pay", source="/orders", data=step.event.data)


class Bank:
    """A sink that answers with ``results`` in turn, and keeps what it was sent."""

    def __init__(self, *results: Result) -> None:
        self.results = [*results]
        self.sent: list[Event] = []

    async def send(self, event: Event, /) -> Result:
        self.sent.append(event)
        return self.results.pop(0)


def told(event: Event, **given: Any) -> Event:
    return event.reply(**{"type": "paid", "source": "/bank", "data": {"receipt": 1}, **given})


def saga(shop: Shop, clock: LoopClock, pay: Any, journal: MemoryJournal | None = None, **given: Any) -> Saga:
    steps = [shop.step("reserve"), Step("pay", pay, shop.work("pay_undo")), shop.step("ship")]
    return shop.saga(clock, journal, steps=steps, **given)


# The answer is the reply.


@virtual
async def test_a_service_is_asked_and_its_reply_is_the_result(clock: LoopClock) -> None:
    asked: list[Event] = []

    async def bank(event: Event) -> Event:
        asked.append(event)
        if len(asked) == 1:
            raise Retry
        return told(event)

    async with saga(Shop(), clock, ask(HandlerSink(bank), command)) as order:
        await order(EVENT)
        report = await over(order)
    assert (report.status, report.results["pay"]) == ("completed", {"receipt": 1})
    first, second = asked
    assert first == second
    assert first.id == f"order/{report.id}/pay"


@virtual
async def test_a_service_that_tells_copies_acts_once(clock: LoopClock) -> None:
    acted: list[str] = []

    async def act(event: Event) -> Event:
        acted.append(event.id)
        return told(event, id="answer")

    bank, lost = wrap(act, stages.deduplicate()), [True, False]

    async def losing(event: Event) -> Outcome:
        answer = await bank(event)
        if lost.pop(0):
            raise TimeoutError
        return answer

    async with saga(Shop(), clock, ask(HandlerSink(losing), command)) as order:
        await order(EVENT)
        assert (await over(order)).results["pay"] == {"receipt": 1}
    assert len(acted) == 1


@pytest.mark.parametrize(
    ("result", "attempts", "undone"),
    [
        (Nack(status=422, reason="no money"), 1, False),
        (Nack(status=503, retryable=True, retry_after=100), 3, True),
        (Undelivered(reason="timeout", possibly_delivered=True), 3, True),
        (Undelivered(reason="refused"), 3, False),
        (Ack(reply_error="it was broken"), 3, True),
    ],
)
@virtual
async def test_what_a_failed_request_means(clock: LoopClock, result: Result, attempts: int, undone: bool) -> None:
    bank, shop = Bank(*[result] * 3), Shop()
    async with saga(shop, clock, ask(bank, command)) as order:
        await order(EVENT)
        report = await over(order)
    assert (report.status, len(bank.sent)) == ("compensated", attempts)
    assert shop.done == ["reserve", *(["pay_undo"] if undone else []), "reserve_undo"]
    assert len({*bank.sent}) == 1
    assert (clock.monotonic() >= 200) == (getattr(result, "retry_after", None) == 100)


@virtual
async def test_no_reply_is_no_result_and_an_id_of_ones_own_is_replaced(clock: LoopClock) -> None:
    bank = Bank(Ack())
    async with saga(Shop(), clock, ask(bank, lambda step: new(type="pay", id="mine"))) as order:
        await order(EVENT)
        report = await over(order)
    assert report.results["pay"] is None
    assert bank.sent[0].id == f"order/{report.id}/pay"


def receipt(answer: Event) -> int:
    if answer.type == "unpaid":
        raise Reject("no money")
    found: int = answer.data["receipt"]
    return found


@pytest.mark.parametrize(("kind", "status"), [("paid", "completed"), ("unpaid", "compensated")])
@virtual
async def test_an_answer_is_read(clock: LoopClock, kind: str, status: str) -> None:
    async def bank(event: Event) -> Event:
        return told(event, type=kind)

    shop = Shop()
    async with saga(shop, clock, ask(HandlerSink(bank), command, read=receipt)) as order:
        await order(EVENT)
        report = await over(order)
    assert (report.status, report.results.get("pay"), "pay_undo" in shop.done) == (
        status, 1 if status == "completed" else None, False,
    )  # fmt: skip


# The answer comes later.


@virtual
async def test_an_answer_that_comes_later_wakes_the_step(clock: LoopClock) -> None:
    bank, shop = Bank(Ack(status=202)), Shop()
    async with saga(shop, clock, ask(bank, command, timeout=3600)) as order:
        await order(EVENT)
        await asyncio.sleep(1000)
        (sent,) = bank.sent
        await order.deliver(told(sent, data={"receipt": 2}))
        report = await over(order)
        assert clock.monotonic() < 1002
    assert (report.status, report.results["pay"], len(bank.sent)) == ("completed", {"receipt": 2}, 1)
    assert [one.attempt for one in shop.contexts] == [1, 1]


@virtual
async def test_an_answer_counts_also_after_a_restart_and_wherever_it_arrives(clock: LoopClock) -> None:
    bank, shop, journal = Bank(Ack()), Shop(), MemoryJournal()
    pay = ask(bank, command, timeout=3600)
    async with saga(shop, clock, pay, journal) as order:
        await order(EVENT)
        await asyncio.sleep(1)
    async with saga(shop, clock, pay, journal, concurrency=0) as elsewhere:
        await elsewhere.deliver(told(bank.sent[0]))
    async with saga(shop, clock, pay, journal) as order:
        assert (await over(order)).status == "completed"


@virtual
async def test_an_answer_that_is_there_before_the_request_has_ended_is_not_lost(clock: LoopClock) -> None:
    sent: list[Event] = []

    class Quick:
        async def send(self, event: Event, /) -> Result:
            sent.append(event)
            await order.deliver(told(event))
            return Ack()

    async with saga(Shop(), clock, ask(Quick(), command, timeout=3600)) as order:
        await order(EVENT)
        await over(order)
        assert clock.monotonic() < 2
    assert (len(sent), order.counts["conflicts"]) == (1, 1)


@virtual
async def test_without_an_answer_the_request_is_sent_again_and_given_up_in_doubt(clock: LoopClock) -> None:
    bank, shop = Bank(*[Ack()] * 3), Shop()
    async with saga(shop, clock, ask(bank, command, timeout=100)) as order:
        await order(EVENT)
        report = await over(order)
        assert 300 <= clock.monotonic() < 302
        await order.deliver(told(bank.sent[0]))  # too late
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]
    assert (report.reason, order.counts["late"]) == ("step pay: no answer came", 1)
    assert len({*bank.sent}) == 1


@virtual
async def test_other_events_wake_a_step_but_neither_send_again_nor_hasten_a_retry(clock: LoopClock) -> None:
    bank, shop = Bank(Ack()), Shop(ship=[OSError()])
    async with saga(shop, clock, ask(bank, command, timeout=100, answer="paid.*"), key=lambda e: e["order"]) as order:
        await order(EVENT.evolve(order="7"))
        for number in range(5):
            await asyncio.sleep(1)
            await order.deliver(new(type="noise", id=f"noise {number}", order="7"))
        assert len(bank.sent) == 1
        await order.deliver(new(type="paid.cash", id="cash", data={"receipt": 3}, order="7", causationid="else"))
        await asyncio.sleep(1)
        await order.deliver(new(type="noise", id="last", order="7"))
        report = await over(order, EVENT.evolve(order="7"))
        assert 15 <= clock.monotonic() < 17
    assert (report.id, report.results["pay"]) == ("7", {"receipt": 3})
    assert len(shop.contexts[-1].events) == 7


@virtual
async def test_the_deadline_ends_the_wait_for_an_answer(clock: LoopClock) -> None:
    bank, shop = Bank(Ack()), Shop()
    async with saga(shop, clock, ask(bank, command, timeout=100), deadline=50) as order:
        await order(EVENT)
        report = await over(order)
        assert 50 <= clock.monotonic() < 52
    assert (report.status, report.reason) == ("compensated", "step pay: out of time")
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]


@virtual
async def test_two_events_at_once_are_both_kept(clock: LoopClock) -> None:
    """K-D8: a version conflict is retried, and no update is lost; a copy is kept once."""

    class Slow(MemoryJournal):
        async def load(self, saga: str, id: str, /) -> Any:
            found = await super().load(saga, id)
            await asyncio.sleep(0)
            return found

    async def both(step: Context) -> list[str]:
        if len(step.events) < 10:
            raise Wait(100)
        return sorted(event.id for event in step.events)

    async with saga(Shop(), clock, both, Slow()) as order:
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
        results = [await answer(order.deliver, new(id=str(number), causationid=cause)) for number in range(101)]
    assert [result.status for result in results] == [204] * 100 + [429]


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


@virtual
async def test_a_compensation_may_ask_and_wait_as_well(clock: LoopClock) -> None:
    bank, shop = Bank(Ack()), Shop(ship=[Reject()])
    steps = [Step("pay", shop.work("pay"), ask(bank, command, timeout=1000)), shop.step("ship")]
    async with shop.saga(clock, steps=steps, deadline=10) as order:
        await order(EVENT)
        await asyncio.sleep(500)
        await order.deliver(told(bank.sent[0]))
        report = await over(order)
    assert (report.status, report.compensated) == ("compensated", ("pay",))
    assert bank.sent[0].id == f"order/{report.id}/pay:undo"


# Events for a saga that has not started.


@virtual
async def test_an_event_for_a_saga_that_has_not_started_is_to_be_sent_again(clock: LoopClock) -> None:
    """K-D8."""
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


async def status(saga: Saga, id: str) -> str:
    report = await saga.find(id)
    assert report is not None
    return report.status


@virtual
async def test_an_event_for_a_saga_that_has_not_started_is_parked_until_it_does(clock: LoopClock) -> None:
    """K-D8."""
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


@pytest.mark.parametrize("key", ["", None, 5])
@virtual
async def test_a_key_that_is_none_is_an_error(clock: LoopClock, key: Any) -> None:
    async with saga(Shop(), clock, _first_event, key=lambda event: key) as order:
        with pytest.raises((TypeError, ValueError), match=r"^key"):
            await order(EVENT)


@virtual
async def test_a_key_that_is_no_short_text_is_digested(clock: LoopClock) -> None:
    order = saga(Shop(), clock, _first_event, key=lambda event: event["order"])
    assert order.id_of(EVENT.evolve(order="7")) == "7"
    ids = {order.id_of(EVENT.evolve(order=text)) for text in ("x" * 129, "x" * 130)}
    assert sorted(map(len, ids)) == [64, 64]


# Over the wire.


async def test_sagas_and_services_over_http() -> None:
    """The bank replies at once; the shipper takes its time, and answers with an event of its own."""
    waiting: asyncio.Queue[Event] = asyncio.Queue()

    async def bank(event: Event) -> Event:
        return told(event)

    async def shipper(event: Event) -> Outcome:
        await waiting.put(event)
        return ACCEPTED

    services = Router()
    services.on("pay")(bank)
    services.on("ship")(shipper)
    async with Receiver(services, port=0) as there, Sender(there.url) as sender:
        requests = Requests(sender, timeout=5)
        order = Saga(
            "order",
            [
                Step("pay", ask(sender, command)),
                Step("pay again", ask(requests, command)),
                Step("ship", ask(sender, lambda step: step.make(type="ship", source="/orders"), timeout=10)),
            ],
            journal=MemoryJournal(),
            retry=RetryPolicy(initial=0.01, deadline=None),
            poll=0.05,
        )
        own = Router()
        own.on("order.created")(order)
        own.on("shipped")(order.deliver)
        async with Receiver(own, requests, port=0) as here, Sender(here.url) as to_us:
            assert (await to_us.send(EVENT)) == Ack(status=202, attempts=ANY, elapsed=ANY)
            async with asyncio.timeout(10):
                asked = await waiting.get()
            assert await to_us.send(asked.reply(type="shipped", source="/shipper", data="on its way"))
            async with asyncio.timeout(10):
                report = await over(order)
    assert report.results == {"pay": {"receipt": 1}, "pay again": {"receipt": 1}, "ship": "on its way"}


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


def test_questions_that_make_no_sense_cannot_be_asked() -> None:
    bank = Bank()
    for error, given in (
        ("sink", {"sink": 5}),
        ("build", {"build": 5}),
        ("read", {"read": 5}),
        ("timeout", {"timeout": 0}),
    ):
        with pytest.raises((TypeError, ValueError), match=error):
            _ask(**{"sink": bank, "build": command, **given})


_ask: Any = ask
