"""`DurableFanOut`: what is acknowledged is stored for each subscriber, and each gets it on its own, at least once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    DeliveryError,
    Event,
    Nack,
    Receiver,
    Result,
    RetryPolicy,
    Sender,
    Undelivered,
    filters,
    forward,
    settle,
    stages,
)
from cloudevents_kit.pubsub import Subscription
from cloudevents_kit.stores import StoreError, open_store
from cloudevents_kit.stores.memory_outbox import MemoryOutboxStore
from tests.support.branches import other_tasks
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.parts import Gate
from tests.support.pubsub import BUSY, SOON, STORED, DeadLetters, Got, durable, handled, reason

# Stored, and sent.


async def test_each_event_is_stored_for_all_who_want_it_and_each_gets_it_once() -> None:
    """K-D10.1. Two groups in memory."""
    orders, everything, other = Got(), Got(), Got()
    fan_out = durable(
        Subscription("orders", orders, filters.prefix(type="order.")),
        Subscription("everything", everything),
        Subscription("other", other, filters.exact(type="other")),
    )
    assert await fan_out.send(new(id="before", type="order.created")) == STORED
    waiting = {name: lag.waiting for name, lag in (await fan_out.lag()).items()}
    assert waiting == {"orders": 1, "everything": 1, "other": 0}
    async with fan_out:
        assert await fan_out.send(new(id="after", type="x")) == STORED
        await handled(fan_out)
        assert (orders, sorted(everything), other) == (["before"], ["after", "before"], [])
    assert other_tasks() == set()
    assert fan_out.counts == {}
    sent: Any = fan_out.status["subscribers"]
    assert {name: counts["sent"] for name, counts in sent.items()} == {"orders": 1, "everything": 2, "other": 0}
    assert await fan_out.lag() == dict.fromkeys(("orders", "everything", "other"), (0, 0.0, 0))


async def test_what_is_not_acknowledged_comes_again_after_the_lease() -> None:
    """K-D10.1. Somebody had leased it, and died."""
    got, store = Got(), open_store("memory:")
    fan_out = durable(Subscription("s", got), store=store)
    await fan_out.send(new())
    assert len(await store.scoped("fan_out/s").outbox.lease(10, 0.1)) == 1
    async with fan_out:
        await asyncio.sleep(0.02)
        assert got == []
        await handled(fan_out)
    assert got == ["1"]


async def test_an_event_that_fails_goes_to_the_dead_letters_and_the_others_go_on() -> None:
    """K-D10.2."""
    got, dead, stored = Got("2"), DeadLetters(), ScriptedSink(STORED)
    fan_out = durable(
        Subscription("hook", got, retry=SOON, dead_letter=dead),
        Subscription("sink", ScriptedSink(Nack(422, "no")), dead_letter=stored),
    )
    async with fan_out:
        for number in range(5):
            assert await fan_out.send(new(id=str(number)))
        await handled(fan_out)
    assert sorted(got) == ["0", "1", "2", "2", "2", "3", "4"]
    assert dead == [("2", "hook: nack 500: the handler failed")]
    assert sorted(event.id for event in stored.sent) == ["0", "1", "2", "3", "4"]
    counts: Any = fan_out.status["subscribers"]
    assert counts["hook"] == {
        "sent": 4,
        "failed": 3,
        "dead_lettered": 1,
        "dead_letter_failed": 0,
        "store_failed": 0,
    }


async def test_a_dead_letter_tells_how_often_it_was_tried_and_the_log_for_whom(
    caplog: pytest.LogCaptureFixture,
) -> None:
    got: list[Any] = []

    def hook(event: Event, error: Exception) -> None:
        got.append(error)
        if len(got) == 1:
            raise LookupError

    async with durable(Subscription("s", ScriptedSink(BUSY), retry=SOON, dead_letter=hook)) as fan_out:
        await fan_out.send(new())
        await handled(fan_out)
    assert [error.attempts for error in got] == [3, 4]
    assert "fan_out/s: could not be handed over: id='1'" in caplog.text


@pytest.mark.parametrize("dead_letter", [None, ScriptedSink(BUSY)])
async def test_an_event_without_a_dead_letter_stays_and_is_tried_again(dead_letter: Any) -> None:
    results = iter([BUSY] * 4)

    class Later:
        async def send(self, event: Event, /) -> Result:
            return next(results, Ack())

    async with durable(Subscription("s", Later(), retry=SOON, dead_letter=dead_letter)) as fan_out:
        await fan_out.send(new())
        await handled(fan_out)
    counts: Any = fan_out.status["subscribers"]
    assert (counts["s"]["failed"], counts["s"]["sent"]) == (4, 1)


async def test_one_that_hangs_or_raises_delays_no_other(caplog: pytest.LogCaptureFixture) -> None:
    class Raises:
        async def send(self, event: Event, /) -> Result:
            raise LookupError

    gate, got = Gate(), Got()
    fan_out = durable(
        Subscription("hangs", gate, concurrency=1),
        Subscription("raises", Raises(), retry=RetryPolicy(initial=60)),
        Subscription("well", got),
    )
    async with fan_out:
        for number in range(50):
            assert await fan_out.send(new(id=str(number)))
        await handled(fan_out, "well")
        assert len(got) == 50
        assert {name: lag.waiting for name, lag in (await fan_out.lag()).items()} == {
            "hangs": 50, "raises": 50, "well": 0,
        }  # fmt: skip
        gate.leave.set()
    assert "subscriber raises failed: id='0'" in caplog.text


@pytest.mark.parametrize("key", [stages.order_key, lambda event: event.source])
async def test_events_of_one_key_keep_their_order_though_one_fails(key: Callable[[Event], str]) -> None:
    got: list[str] = []

    async def flaky(event: Event) -> None:
        got.append(event.id)
        await asyncio.sleep(0)
        if got.count(event.id) < 3 and event.id in ("1", "4"):
            raise OSError

    async with durable(Subscription("s", flaky, key=key, retry=SOON)) as fan_out:
        for number in range(8):
            assert await fan_out.send(new(id=str(number), subject="one"))
        await handled(fan_out)
    assert got == ["0", "1", "1", "1", "2", "3", "4", "4", "4", "5", "6", "7"]


async def test_no_more_are_at_work_than_a_subscriber_takes_at_once() -> None:
    gate = Gate()
    async with durable(Subscription("s", gate, concurrency=3)) as fan_out:
        for number in range(10):
            await fan_out.send(new(id=str(number)))
        for _ in range(3):
            await gate.entered.acquire()
        await asyncio.sleep(0.02)
        assert gate.entered.locked()
        gate.leave.set()
        await handled(fan_out)


async def test_it_takes_events_over_the_wire_and_what_they_cause_names_them() -> None:
    """K-E4.1."""
    got = Got()
    causes: list[Any] = []

    async def take(event: Event) -> None:
        await fan_out.send(new(id="caused", type="caused"))

    async def caused(event: Event) -> None:
        causes.append((event["correlationid"], event["causationid"]))

    fan_out = durable(
        Subscription("take", take, filters.exact(type="t")),
        Subscription("caused", caused, filters.exact(type="caused")),
        Subscription("all", got),
    )
    async with (
        Receiver(forward(fan_out), port=0) as receiver,
        fan_out,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        answer = await sender.send(new(type="t", correlationid="c"))
        assert isinstance(answer, Ack)
        assert answer.status == 202
        await handled(fan_out)
    assert (sorted(got), causes) == (["1", "caused"], [("c", "1")])


# An honest answer.


class Failing(MemoryOutboxStore):
    """Takes nothing as long as it is ``broken``."""

    broken = True

    async def add(self, event: Event, /, *, key: str | None, **given: Any) -> None:
        if self.broken:
            raise StoreError("the disk is full")
        await super().add(event, key=key, **given)


class Places:
    """A store in which the places of some names take nothing."""

    def __init__(self, *failing: str) -> None:
        self.failing = [f"fan_out/{name}" for name in failing]
        self.places: dict[str, Any] = {}

    def scoped(self, name: str) -> Any:
        place = type("Place", (), {})()
        place.outbox = Failing() if name in self.failing else MemoryOutboxStore()
        return self.places.setdefault(name, place)


async def test_it_is_acknowledged_only_if_it_is_stored_for_all_who_want_it(caplog: pytest.LogCaptureFixture) -> None:
    a, b, c = Got(), Got(), Got()
    store: Any = Places("b")
    fan_out = durable(Subscription("a", a), Subscription("b", b), Subscription("c", c), store=store)
    result = await fan_out.send(new())
    assert result == Nack(503, "1 of 3 subscribers failed: b (503)", retryable=True)
    assert "fan_out: not stored for b: id='1'" in caplog.text
    assert fan_out.counts == {"store_failed.b": 1}
    store.places["fan_out/b"].outbox.broken = False
    assert await fan_out.send(new()) == STORED  # those who have it do not get it twice
    async with fan_out:
        await handled(fan_out)
    assert (a, b, c) == (["1"], ["1"], ["1"])


async def test_a_filter_or_a_key_that_fails_makes_the_event_come_again_and_the_others_have_it() -> None:
    def broken(event: Event) -> Any:
        raise LookupError

    got = Got()
    fan_out = durable(
        Subscription("filter", Got(), broken), Subscription("key", Got(), key=broken), Subscription("well", got)
    )
    result = await fan_out.send(new())
    assert result == Nack(500, "2 of 3 subscribers failed: filter (500), key (500)", retryable=True)
    async with fan_out:
        await handled(fan_out)
    assert got == ["1"]
    with pytest.raises(DeliveryError, match="filter: nack 500: the filter of the subscription failed"):
        fan_out.add_sync(new(), None)
    fan_out.cancel("filter")
    with pytest.raises(DeliveryError, match="key: nack 500: the key of the subscription failed"):
        fan_out.add_sync(new(), None)


async def test_an_event_that_nobody_wants_is_no_silent_success(caplog: pytest.LogCaptureFixture) -> None:
    fan_out = durable(Subscription("a", Got(), filters.exact(type="other")))
    assert await fan_out.send(new()) == Nack(422, "no subscriber wants this event")
    assert fan_out.add_sync(new(), None) == ()
    assert fan_out.counts == {"unhandled": 2}
    assert "fan_out: no subscriber for event: id='1'" in caplog.text
    assert await durable(unhandled="ack").send(new()) == Ack()
    broken: Any = {"type": "t"}
    with pytest.raises(TypeError):
        await fan_out.send(broken)


async def test_an_invalid_event_is_undelivered() -> None:
    from cloudevents.v1.http import CloudEvent

    broken: Any = CloudEvent({"type": "t", "source": "/s"}, None)
    broken["Bad_Name"] = "x"
    result = await durable(Subscription("a", Got())).send(broken)
    assert isinstance(result, Undelivered)
    assert reason(result) == "invalid-event"


async def test_a_sender_that_is_cancelled_is_told_nothing() -> None:
    class Slow(MemoryOutboxStore):
        async def add(self, event: Event, /, *, key: str | None, **given: Any) -> None:
            await asyncio.sleep(1e6)

    store: Any = Places()
    store.scoped("fan_out/s").outbox = Slow()
    task = asyncio.create_task(settle(forward(durable(Subscription("s", Got()), store=store)), new()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
