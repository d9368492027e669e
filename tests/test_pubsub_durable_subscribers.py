"""`DurableFanOut`: subscribers come and go, it is opened and closed, and nothing stored is lost by that."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    RetryPolicy,
)
from cloudevents_kit.pubsub import DurableFanOut, Subscription
from cloudevents_kit.stores import open_store
from tests.support.branches import other_tasks
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.parts import Gate
from tests.support.pubsub import BUSY, Got, durable, handled

# Subscribers come and go.


async def test_what_is_stored_for_a_subscriber_that_goes_waits_until_it_comes_back() -> None:
    gate, late, other = Gate(), Got(), Got()
    async with durable(Subscription("s", gate, concurrency=1), Subscription("other", other)) as fan_out:
        for number in range(3):
            await fan_out.send(new(id=str(number)))
        await gate.entered.acquire()
        assert fan_out.cancel("s")
        assert not fan_out.cancel("s")
        await fan_out.send(new(id="missed"))
        gate.leave.set()  # what is at work there is ended
        await handled(fan_out)
        assert (gate.ended, sorted(other)) == (["done"], ["0", "1", "2", "missed"])
        fan_out.subscribe(Subscription("s", late))
        await handled(fan_out)
    assert late == ["1", "2"]


async def test_one_that_comes_later_gets_what_comes_later() -> None:
    got = Got()
    async with durable(Subscription("a", Got())) as fan_out:
        await fan_out.send(new(id="1"))

        @fan_out.on("t.*", name="b", concurrency=1)
        async def handle(event: Event) -> None:
            await got(event)

        assert fan_out.subscribers_for("t.x") == ("a", "b")
        await fan_out.send(new(id="2", type="t.x"))
        await handled(fan_out)
    assert got == ["2"]


async def test_what_is_stored_for_one_that_does_not_come_back_can_be_dropped(caplog: pytest.LogCaptureFixture) -> None:
    down, store = ScriptedSink(BUSY), open_store("memory:")
    subscription = Subscription("s", down, key=lambda event: "one", retry=RetryPolicy(initial=0.05, jitter=False))
    fan_out = durable(subscription, Subscription("other", Got()), store=store)
    async with fan_out:
        for number in range(5):
            await fan_out.send(new(id=str(number)))
        with pytest.raises(ValueError, match="s: is a subscriber"):
            await fan_out.drop("s")
        while not down.sent:  # noqa: ASYNC110 - one of them waits for its next attempt then
            await asyncio.sleep(0.001)
        fan_out.cancel("s")
        assert await fan_out.drop("s") == 5
        assert "fan_out: deleted what was stored for s: 5 events" in caplog.text
        await handled(fan_out)
    assert (await store.scoped("fan_out/s").outbox.lag())[0] == 0
    assert await fan_out.drop("s") == 0


# Opening and closing.


async def test_it_can_be_opened_again_but_not_twice() -> None:
    got = Got()
    fan_out = durable(Subscription("s", got))
    for number in range(2):
        async with fan_out:
            with pytest.raises(RuntimeError, match="open already"):
                await fan_out.__aenter__()
            await fan_out.send(new(id=str(number)))
            await handled(fan_out)
    assert got == ["0", "1"]


async def test_what_is_not_ended_in_the_grace_period_stays_stored() -> None:
    gate, got, store = Gate(), Got(), open_store("memory:")
    async with durable(Subscription("s", gate), store=store, grace=0.01) as fan_out:
        await fan_out.send(new())
        await gate.entered.acquire()
    assert (gate.ended, other_tasks()) == (["cancelled"], set())
    async with durable(Subscription("s", got), store=store) as again:
        await handled(again)
    assert got == ["1"]


async def test_a_block_that_is_cancelled_while_it_is_left_leaves_no_task_behind() -> None:
    gate, leaving = Gate(), asyncio.Event()

    async def program() -> None:
        async with durable(Subscription("s", gate)) as fan_out:
            await fan_out.send(new())
            await gate.entered.acquire()
            leaving.set()

    task = asyncio.create_task(program())
    await leaving.wait()
    await asyncio.sleep(0.01)  # it waits for what is at work now
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (gate.ended, other_tasks()) == (["cancelled"], set())


# What cannot work is said at once.


async def hook(event: Event) -> None: ...


WRONG: Sequence[tuple[Mapping[str, Any], type[Exception], str]] = [
    ({"store": 5}, TypeError, "store"),
    ({"batch": 0}, ValueError, "batch"),
    ({"lease": 0}, ValueError, "lease"),
    ({"poll": 0}, ValueError, "poll"),
    ({"grace": -1}, ValueError, "grace"),
    ({"unhandled": "drop"}, ValueError, "unhandled"),
    ({"name": 1}, TypeError, "name"),
    ({"subscriptions": [hook]}, TypeError, "subscription"),
    ({"subscriptions": [Subscription("a", hook, capacity=5)]}, ValueError, "capacity: is not for a durable"),
    ({"subscriptions": [Subscription("a", hook, on_full="wait")]}, ValueError, "on_full: is not for a durable"),
    ({"subscriptions": [Subscription("a", hook)] * 2}, ValueError, "of this name already"),
]


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_what_cannot_work_is_refused_by_name(number: int) -> None:
    given, error, text = WRONG[number]
    with pytest.raises(error, match=text):
        DurableFanOut(**{"store": open_store("memory:"), **given})


async def test_a_connection_that_is_not_async_is_for_add_sync() -> None:
    fan_out = durable(Subscription("a", hook))
    with pytest.raises(TypeError, match="use add_sync"):
        await fan_out.add(new(), object())
    with pytest.raises(TypeError, match="the memory has no transactions"):
        fan_out.add_sync(new(), object())
