"""Which event is the answer to which question of a saga."""

import asyncio
from itertools import count
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    Event,
    HandlerSink,
    Reject,
    Retry,
    RetryPolicy,
)
from cloudevents_kit.saga import Saga, Step, ask
from tests.support.events import new
from tests.support.saga import EVENT, Bank, Shop, command, over, saga, status, told
from tests.support.virtual import LoopClock, virtual

# The answer is the reply.


def late(order: Saga, kind: str, **given: Any) -> Event:
    """Make an event for the saga of `EVENT` that names no step."""
    return new(type=kind, id=kind, order="7", **given)


@virtual
async def test_the_answer_to_one_step_is_none_to_the_next_and_none_to_what_takes_it_back(clock: LoopClock) -> None:
    """K-D8.1. All three are asked, although the pattern fits the answers to the others."""
    bank, shop = Bank(*[Ack()] * 3), Shop(ship=[Reject()])
    asked = ask(bank, command, timeout=1000, answer="bank.*")
    steps = [Step("authorise", asked), Step("capture", asked, asked), shop.step("ship")]
    event = EVENT.evolve(order="7")
    async with shop.saga(clock, steps=steps, key=lambda event: event["order"]) as order:
        await order(event)
        for number, kind in enumerate(("bank.authorised", "bank.captured", "bank.refunded")):
            await asyncio.sleep(10)
            assert len(bank.sent) == number + 1
            await order.deliver(late(order, kind, data=kind))
        report = await over(order, event)
    assert (report.status, report.compensated) == ("compensated", ("capture",))
    assert report.results == {"authorise": "bank.authorised", "capture": "bank.captured"}
    assert [one.id.rpartition("/")[2] for one in bank.sent] == ["authorise", "capture", "capture:undo"]


@virtual
async def test_an_answer_that_comes_after_the_compensation_has_begun_is_none_to_that(clock: LoopClock) -> None:
    bank, shop = Bank(Ack(), Ack()), Shop()
    asked = ask(bank, command, timeout=100, answer="bank.*")
    event = EVENT.evolve(order="7")
    given: dict[str, Any] = {"key": lambda event: event["order"], "retry": RetryPolicy(attempts=1)}
    async with shop.saga(clock, steps=[Step("pay", asked, asked)], **given) as order:
        await order(event)
        await asyncio.sleep(150)
        pay, refund = bank.sent
        await order.deliver(told(pay, type="bank.paid", order="7"))
        await asyncio.sleep(10)
        assert await status(order, "7") == "compensating"
        await order.deliver(told(refund, type="bank.refunded", order="7", id="2"))
        assert (await over(order, event)).status == "compensated"


@virtual
async def test_after_an_answer_of_not_now_the_question_is_asked_again(clock: LoopClock) -> None:
    bank, shop = Bank(Ack(), Ack()), Shop()

    def read(answer: Event) -> object:
        if answer.data == "later":
            raise Retry
        return answer.data

    async with saga(shop, clock, ask(bank, command, timeout=1000, read=read)) as order:
        await order(EVENT)
        await asyncio.sleep(1)
        await order.deliver(told(bank.sent[0], data="later"))
        await asyncio.sleep(20)
        assert len(bank.sent) == 2
        await order.deliver(told(bank.sent[0], data="paid", id="2"))
        assert (await over(order)).results["pay"] == "paid"


@virtual
async def test_a_compensation_that_was_refused_by_event_asks_again_when_it_is_resumed(clock: LoopClock) -> None:
    bank, shop = Bank(Ack(), Ack()), Shop(ship=[Reject()])

    def read(answer: Event) -> object:
        if answer.data == "closed":
            raise Reject("the account is closed")
        return answer.data

    steps = [Step("pay", shop.work("pay"), ask(bank, command, timeout=1000, read=read)), shop.step("ship")]
    async with shop.saga(clock, steps=steps) as order:
        await order(EVENT)
        await asyncio.sleep(1)
        await order.deliver(told(bank.sent[0], data="closed"))
        report = await over(order)
        assert report.errors["pay:undo"] == "Reject: the account is closed"
        assert (report.status, await order.resume(report.id)) == ("stuck", True)
        await asyncio.sleep(1)
        assert len(bank.sent) == 2
        await order.deliver(told(bank.sent[1], id="2"))
        assert (await over(order)).status == "compensated"


@pytest.mark.parametrize("answer", [{"data": {}}, {"data": b"{", "datacontenttype": "application/json"}])
@virtual
async def test_after_an_answer_that_cannot_be_read_the_step_is_in_doubt_and_taken_back(
    clock: LoopClock, caplog: pytest.LogCaptureFixture, answer: dict[str, Any]
) -> None:
    """The service has acted, whatever it says."""
    shop, numbers = Shop(), count(2)

    async def bank(event: Event) -> Event:
        return told(event, id=str(next(numbers)), **answer)

    async with saga(shop, clock, ask(HandlerSink(bank), command, read=lambda answer: answer.data["receipt"])) as order:
        await order(EVENT)
        report = await over(order)
    assert report.reason.startswith("step pay: InDoubt: the answer cannot be read: ")
    assert shop.done == ["reserve", "pay_undo", "reserve_undo"]
    assert "the answer to a step cannot be read: id='2'" in caplog.text
    assert "Traceback" in caplog.text


@virtual
async def test_question_and_answer_may_share_nothing_but_their_correlation(clock: LoopClock) -> None:
    """K-E4.1. Send and await by correlationid."""
    bank = Bank(Ack())
    event = EVENT.evolve(correlationid="flow 1")
    given: dict[str, Any] = {"key": lambda event: event["correlationid"]}
    async with saga(Shop(), clock, ask(bank, command, timeout=1000, answer="paid"), **given) as order:
        await order(event)
        await asyncio.sleep(1)
        await order.deliver(new(type="paid", id="9", correlationid=bank.sent[0]["correlationid"], data=3))
        assert (await over(order, event)).results["pay"] == 3
