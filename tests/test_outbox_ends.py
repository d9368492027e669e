"""How an event of an outbox, or of a durable fan-out, ends that is not delivered; and what is told at the beginning."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, HandlerSink, Nack, Receiver, Result, RetryPolicy, Sender, Undelivered, forward
from cloudevents_kit.dead_letter import DeadLetterSink, keeper, letters, redrive
from cloudevents_kit.event_log import EventLog
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.pubsub import DurableFanOut, FanOut, Subscription
from cloudevents_kit.stores import Store, StoreError, open_store
from cloudevents_kit.stores.memory_outbox import MemoryOutboxStore
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import SOON, durable, handled, reason
from tests.test_outbox import empty, until

LATER = RetryPolicy(attempts=5, initial=60, jitter=False)


async def nobody(event: Event) -> None:
    """Handle."""


async def broken(event: Event) -> None:
    raise ConnectionError("the disk is away")


# What the sink has stored as a dead letter is over.


@pytest.mark.parametrize(
    "failure", [Undelivered(reason="refused"), Nack(status=503, retryable=True), Nack(status=422, reason="no")]
)
async def test_an_event_that_the_sink_has_stored_as_a_dead_letter_is_not_tried_again(failure: Result) -> None:
    handed: list[str] = []
    async with open_store("memory:") as store:
        sink = DeadLetterSink(ScriptedSink(failure), store.dead_letters, destination="there")
        outbox = Outbox(
            store.outbox,
            sink,
            retry=LATER,
            poll=0.005,
            key=lambda event: "k",
            dead_letter=lambda event, error: handed.append(event.id),
        )
        for id in "ab":
            await outbox.add(new(id=id))
        async with outbox:
            await empty(outbox)
        assert (outbox.counts["failed"], outbox.counts["dead_lettered"]) == (2, 2)
        assert [(one.event.id, one.times) async for one in letters(store.dead_letters)] == [("a", 1), ("b", 1)]
    assert handed == []


async def test_nor_is_one_of_a_subscriber_with_such_a_sink() -> None:
    async with open_store("memory:") as store:
        sink = DeadLetterSink(ScriptedSink(Undelivered(reason="refused")), store.dead_letters, destination="there")
        fan_out = DurableFanOut(store, [Subscription("s", sink, retry=LATER)], poll=0.005)
        async with fan_out:
            await fan_out.send(new(id="a"))
            await handled(fan_out)
        counts: Any = fan_out.status["subscribers"]
        assert counts["s"]["dead_lettered"] == 1
        assert [(one.event.id, one.times) async for one in letters(store.dead_letters)] == [("a", 1)]


# A handler of this process.


async def test_the_hook_is_told_what_the_handler_raised() -> None:
    told: list[Any] = []

    def hook(event: Event, error: Exception) -> None:
        told.append(error)

    async with open_store("memory:") as store:
        outbox = Outbox(store.outbox, HandlerSink(broken), retry=SOON, poll=0.005, dead_letter=hook)
        async with outbox:
            await outbox.add(new(id="a"))
            await empty(outbox)
        keep = keeper(store.dead_letters, "kept")
        fan_out = DurableFanOut(
            store,
            [
                Subscription("s", broken, retry=SOON, dead_letter=hook),
                Subscription("t", broken, retry=SOON, dead_letter=keep),
            ],
            poll=0.005,
        )
        async with fan_out:
            await fan_out.send(new(id="b"))
            await handled(fan_out)
        assert [repr(error.__cause__) for error in told] == ["ConnectionError('the disk is away')"] * 2
        assert [error.attempts for error in told] == [3, 3]
        (letter,) = [one async for one in letters(store.dead_letters)]
        assert letter.error == "ConnectionError"
        assert "the disk is away" in letter.reason


# Dead letters that are not taken.


async def test_one_that_was_not_taken_is_counted() -> None:
    fan_out = durable(Subscription("s", ScriptedSink(Nack(status=422)), dead_letter=lambda event, error: 1 / 0))
    async with fan_out:
        await fan_out.send(new())
        counts: Any = fan_out.status["subscribers"]
        await until(lambda: counts["s"]["dead_letter_failed"])
    assert counts["s"]["dead_lettered"] == 0


# What cannot work is told at the beginning.


async def test_a_sender_that_is_not_open_is_told_when_the_outbox_is_opened() -> None:
    """And no event is lost to it."""
    sender = Sender("http://127.0.0.1:9/")
    async with open_store("memory:") as store:
        for sink in (sender, DeadLetterSink(sender, store.dead_letters)):
            outbox = Outbox(store.outbox, sink)
            await outbox.add(new())
            with pytest.raises(RuntimeError, match=r"sink: a Sender is not open .enter it first"):
                await outbox.__aenter__()
            assert (await outbox.lag()).waiting == 1
        fan_out = DurableFanOut(store, [Subscription("s", HandlerSink(nobody)), Subscription("t", sender)])
        with pytest.raises(RuntimeError, match="t: a Sender is not open"):
            await fan_out.__aenter__()
        async with sender, fan_out:
            with pytest.raises(RuntimeError, match="u: a Sender is not open"):
                fan_out.subscribe(Subscription("u", Sender("http://127.0.0.1:9/")))
            assert fan_out.subscribers_for("t") == ("s", "t")


def test_a_sender_that_sends_no_batches_is_told_when_the_outbox_is_made() -> None:
    with pytest.raises(ValueError, match=r"sink: has no max_batch .set it for a destination that has asked"):
        Outbox(MemoryOutboxStore(), Sender("http://127.0.0.1:9/"), batched=True)
    Outbox(MemoryOutboxStore(), Sender("http://127.0.0.1:9/", max_batch=3), batched=True)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 201, "a/b"])
def test_a_fan_out_needs_a_name_that_can_be_shown(name: str) -> None:
    store = open_store("memory:")
    with pytest.raises(ValueError, match="name: must "):
        DurableFanOut(store, name=name)
    if name != "a/b":
        with pytest.raises(ValueError, match="name: must be 1 to 200 printable characters"):
            Outbox(store.outbox, name=name)


def test_a_subscriber_of_a_durable_one_needs_a_name_that_can_be_shown() -> None:
    with pytest.raises(ValueError, match="name: must be 1 to 200 printable characters"):
        durable(Subscription("a\nb", nobody))


def test_a_store_without_outboxes_is_refused_when_the_fan_out_is_made() -> None:
    with pytest.raises(StoreError, match="outbox: Redis does not keep it"):
        DurableFanOut(open_store("redis://127.0.0.1:9/0"))


@pytest.mark.parametrize("key", [object(), ["a"], ("a", object())])
async def test_a_key_that_is_not_the_same_in_every_process_is_refused(
    key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    fan_out = durable(Subscription("s", nobody, key=lambda event: key))
    result = await fan_out.send(new())
    assert (result.status, reason(result)) == (500, "1 of 1 subscribers failed: s (500)")
    assert (await fan_out.lag())["s"].waiting == 0
    assert "key: must be a function that returns a str, a number, a tuple of them, or None" in caplog.text


# An outbox as a sink.


async def test_events_can_be_sent_and_redriven_and_replayed_into_an_outbox() -> None:
    async with open_store("memory:") as store:
        outbox = Outbox(store.outbox)
        async with Receiver(forward(outbox), port=0) as receiver, Sender(receiver.url) as sender:
            assert (await sender.send(new(id="forwarded"))).status == 202
        assert await FanOut([Subscription("o", outbox)]).send(new(id="fanned out"))
        await keeper(store.dead_letters, "there")(new(id="redriven"), ValueError("no"))
        assert (await redrive(store.dead_letters, to=outbox, dry_run=False)).delivered == 1
        await keeper(store.dead_letters, "there")(new(id="added"), ValueError("no"))
        assert (await redrive(store.dead_letters, to=outbox.add, dry_run=False)).delivered == 1
        log = EventLog(store.event_log)
        await log.append("s", new(id="replayed"))
        assert await log.replay(outbox)
        assert (await outbox.lag()).waiting == 5


async def test_an_outbox_whose_store_fails_asks_for_the_event_again(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryOutboxStore):
        async def add(self, event: Event, /, **options: Any) -> None:
            raise StoreError("the disk is full")

    result = await Outbox(Failing()).send(new())
    assert result == Nack(status=503, reason="it could not be stored", retryable=True)
    (record,) = caplog.records
    assert record.message == "outbox: not stored: id='1' source='/s' type='t': the disk is full"


# A store that fails.


class Away(MemoryOutboxStore):
    """Fails at whatever it leases or is told, while it is ``away``."""

    def __init__(self) -> None:
        super().__init__()
        self.away = True
        self.asked = 0

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int, str | None]]:
        self.asked += 1
        if self.away:
            raise StoreError("the disk is full")
        return await super().lease(most, seconds)


async def test_a_store_that_is_away_is_asked_less_and_less_and_told_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever is added meanwhile; closing does not wait for the next time."""
    store, sink = Away(), ScriptedSink(Ack())
    outbox = Outbox(store, sink, poll=0.01, name="orders")
    async with outbox:
        for number in range(300):
            await outbox.add(new(id=str(number)))
            await asyncio.sleep(0.001)
        assert 3 <= store.asked <= 20  # not 300 times, nor every 0.01 s
        assert {record.message for record in caplog.records} == {"orders: nothing can be leased: the disk is full"}
        assert [record.exc_info is not None for record in caplog.records] == [True, *[False] * (store.asked - 1)]
        store.away = False
        await empty(outbox)
        assert caplog.records[-1].message == "orders: the store works again"
    store = Away()
    outbox = Outbox(store, sink, poll=30)
    async with asyncio.timeout(5), outbox:
        await until(lambda: store.asked)


# Two for one store.


async def test_two_relays_of_one_store_to_different_places_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    async def relay(store: Store, *names: str) -> None:
        first, second = (store.scoped(name).outbox for name in names)
        async with Outbox(first, HandlerSink(nobody), name="a"), Outbox(second, HandlerSink(broken), name="b"):
            pass

    async with open_store("memory:") as store:
        await relay(store, "a", "b")
        await relay(store, "b", "a")  # one after the other is no such thing
        async with (
            durable(Subscription("s", nobody), store=store),
            durable(Subscription("s", nobody), store=store, name="other"),
        ):
            pass
        assert caplog.text == ""
        await relay(store, "a", "a")
        assert "a in front of nobody and b in front of broken " in caplog.text
        caplog.clear()
        async with durable(Subscription("s", nobody), store=store), durable(Subscription("s", broken), store=store):
            pass
        assert "fan_out/s in front of nobody and fan_out/s in front of broken " in caplog.text
