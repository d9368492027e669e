"""Steps that ask a service by event: the answer is the reply, or comes later, as an event of its own."""

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
from cloudevents_kit.saga import Saga, Step, ask
from cloudevents_kit.stores.memory_journal import MemoryJournal
from tests.support.events import new
from tests.support.saga import EVENT, Bank, Shop, command, over, saga, told
from tests.support.virtual import LoopClock, virtual

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
    bank, shop, journal = Bank(Ack()), Shop(), MemoryJournal(clock=clock)
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
    """K-D8.5."""
    bank, shop = Bank(Ack()), Shop()
    async with saga(shop, clock, ask(bank, command, timeout=100), deadline=50) as order:
        await order(EVENT)
        report = await over(order)
        assert 50 <= clock.monotonic() < 52
    assert (report.status, report.reason) == (
        "compensated", "step pay: out of time: the deadline of 50 s passed",
    )  # fmt: skip
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]


@virtual
async def test_a_compensation_may_ask_and_wait_as_well(clock: LoopClock) -> None:
    """K-D8.5."""
    bank, shop = Bank(Ack()), Shop(ship=[Reject()])
    steps = [Step("pay", shop.work("pay"), ask(bank, command, timeout=1000)), shop.step("ship")]
    async with shop.saga(clock, steps=steps, deadline=10) as order:
        await order(EVENT)
        await asyncio.sleep(500)
        await order.deliver(told(bank.sent[0]))
        report = await over(order)
    assert (report.status, report.compensated) == ("compensated", ("pay",))
    assert bank.sent[0].id == f"order/{report.id}/pay:undo"


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
