"""`deduplicate` and what failed for good: an event that was handed over is not done, and may come again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudevents_kit import (
    Event,
    HandlerSink,
    Nack,
    Outcome,
    Receiver,
    Reject,
    Sender,
    forward,
    settle,
    stages,
    wrap,
)
from cloudevents_kit.dead_letter import DeadLetterSink, dead_letters, keeper, letters, redrive
from cloudevents_kit.pubsub import FanOut, Subscription
from cloudevents_kit.stages import Stage
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.memory import MemoryDedupeStore
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from tests.support.dedupe import Handler, OverNetwork
from tests.support.events import new
from tests.support.outcomes import ScriptedSink

with_both = pytest.mark.parametrize("store", [MemoryDedupeStore, OverNetwork])
DOWN = ConnectionError("down")
Store = Callable[[], Any]


async def passing(event: Event, call_next: Any) -> Outcome:
    outcome: Outcome = await call_next(event)
    return outcome


@with_both
async def test_a_redrive_through_the_receiver_reaches_the_handler(store: Store) -> None:
    """K-D2: what is reported as delivered was handled."""
    kept, handler = MemoryDeadLetterStore(), Handler(DOWN, DOWN)
    once = stages.deduplicate(store())
    chain = (once, passing, stages.timeout(9), dead_letters(kept, destination="d"), passing)
    async with Receiver(handler.handle, *chain, port=0) as receiver, Sender(receiver.url) as sender:
        for _ in range(2):  # the sender has missed the answer: the copy adds to the letter
            assert (await sender.send(new())).status == 204
        assert [one.times async for one in letters(kept)] == [2]
        assert (await redrive(kept, to=sender, dry_run=False)).delivered == 1
        assert (await sender.send(new())).status == 204
    assert (handler.calls, len(kept)) == (3, 0)
    assert once.counts == {"handed_over": 2, "duplicate": 1}


def hands_over(kept: MemoryDeadLetterStore) -> dict[str, Callable[[Any], Any]]:
    """Each makes of a handler one that hands over what fails in it."""
    letter, keep = dead_letters(kept, destination="d"), keeper(kept, "d")

    def fan_out(limit: int | None) -> Callable[[Any], Any]:
        return lambda handler: wrap(nothing, stages.fan_out({"ok": nothing, "bad": wrap(handler, letter)}, limit=limit))

    def sink(handler: Any, **given: Any) -> DeadLetterSink:
        return DeadLetterSink(HandlerSink(handler), kept, destination="d", **given)

    return {
        "stage": lambda handler: wrap(handler, letter),
        "hook": lambda handler: wrap(handler, stages.on_error(keep)),
        "branches": fan_out(1),
        "branches at once": fan_out(None),
        "settled": lambda handler: forward(HandlerSink(handler, letter)),
        "sink": lambda handler: forward(sink(handler)),
        "sink that acknowledges": lambda handler: forward(sink(handler, acknowledge=True)),
        "subscriber": lambda handler: forward(FanOut([Subscription("s", handler, dead_letter=keep)])),
    }


async def nothing(event: Event) -> None:
    pass


async def test_what_a_line_or_a_batch_has_handed_over_is_not_done_either() -> None:
    """A batch does its work in a context of its own."""
    kept = MemoryDeadLetterStore()

    def line(handler: Handler) -> Any:
        return wrap(handler.handle, stages.order(key=lambda event: "k", on_failure=keeper(kept, "d")))

    def batch(handler: Handler) -> Any:
        sink = DeadLetterSink(HandlerSink(handler.handle), kept, destination="d", acknowledge=True)

        async def work(events: Any) -> None:
            for event in events:
                await sink.send(event)

        return wrap(nothing, stages.batch(work, max_delay=0.001))

    for way in (line, batch):
        handler = Handler(DOWN)
        chain = wrap(way(handler), stages.deduplicate())
        async with stages.running(chain):
            assert await settle(chain, new())
            assert (handler.calls, len(kept)) == (1, 1)
            assert (await redrive(kept, to=chain, dry_run=False)).delivered == 1
        assert (handler.calls, len(kept)) == (2, 0)


async def test_a_side_branch_says_nothing_of_the_event() -> None:
    kept, over, handler = MemoryDeadLetterStore(), asyncio.Event(), Handler()

    async def main(event: Event) -> None:
        await over.wait()
        await handler.handle(event)

    side = wrap(Handler(DOWN).handle, dead_letters(kept, destination="d"))
    branch = stages.background(side, report=lambda *_: over.set())
    chain = wrap(main, stages.deduplicate(), branch)
    async with stages.running(chain):
        assert [(await settle(chain, new())).status for _ in range(2)] == [204] * 2
    assert (handler.calls, len(kept)) == (1, 1)


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("way", hands_over(MemoryDeadLetterStore()))
@with_both
async def test_what_was_handed_over_further_in_is_not_done(store: Store, way: str, settled: bool) -> None:
    kept, handler = MemoryDeadLetterStore(), Handler(DOWN)
    once = stages.deduplicate(store())
    inner = hands_over(kept)[way](handler.handle)
    outer = stages.deduplicate(store())
    chain = wrap(inner, outer, passing, once)

    async def send() -> None:
        if settled:
            assert await settle(chain, new())
        else:
            await chain(new())

    for _ in range(3):
        await send()
    assert (handler.calls, len(kept)) == (2, 1)
    assert (outer.counts["handed_over"], once.counts["handed_over"], outer.counts["duplicate"]) == (1, 1, 1)


async def test_so_is_what_had_another_name_then() -> None:
    kept, handler, once = MemoryDeadLetterStore(), Handler(DOWN), stages.deduplicate()
    renamed = stages.transform(lambda event: event.evolve(id="other"))
    chain = wrap(handler.handle, once, renamed, dead_letters(kept, destination="d"))
    assert [(await settle(chain, new())).status for _ in range(3)] == [204] * 3
    assert (handler.calls, once.counts) == (2, {"handed_over": 1, "duplicate": 1})


@with_both
async def test_what_is_beside_it_is_done(store: Store) -> None:
    """Another branch, and the event in whose course another has become a letter."""
    kept, good, bad = MemoryDeadLetterStore(), Handler(), Handler(DOWN)
    guard = dead_letters(kept, destination="d")
    done, failed = stages.deduplicate(store()), stages.deduplicate(store())
    branches = {"bad": wrap(bad.handle, failed, guard), "good": wrap(good.handle, done)}
    for limit in (1, None):
        chain = wrap(nothing, stages.fan_out(branches, limit=limit))
        for _ in range(3):
            assert await settle(chain, new(id=f"{limit}"))
        assert (done.counts["handed_over"], done.counts["duplicate"]) == (0, 2)
        done.counts.clear()
        bad.ends.append(DOWN)
    assert failed.counts == {"handed_over": 2, "duplicate": 2}

    sinks = (HandlerSink(Handler(DOWN).handle, guard), DeadLetterSink(ScriptedSink(Nack()), kept, destination="s"))
    fan_out = FanOut([Subscription("s", Handler(DOWN).handle, dead_letter=keeper(kept, "f"))])

    async def tells(event: Event) -> None:
        for sink in (*sinks, fan_out):
            await sink.send(event.evolve(id="another"))

    chain = wrap(tells, done)
    for _ in range(2):
        assert await settle(chain, new(id="own"))
    assert done.counts == {"duplicate": 1}


@with_both
async def test_an_error_that_is_put_up_with_is_an_end(store: Store) -> None:
    """Somebody has said so; what is refused, or not taken by the letters, is free as ever."""
    handler, once = Handler(DOWN), stages.deduplicate(store())
    for _ in range(2):
        assert await settle(wrap(handler.handle, once, stages.on_error("ack")), new())
    assert (handler.calls, once.counts) == (1, {"duplicate": 1})

    class Full:
        async def add(self, letter: object, /) -> bool:
            return False

    full = dead_letters(Full(), destination="d")
    assert (await settle(wrap(Handler(DOWN).handle, once, full), new(id="2"))).status == 500
    assert await settle(wrap(handler.handle, once, full), new(id="2"))
    assert (handler.calls, once.counts) == (2, {"duplicate": 1})


async def test_of_chains_that_nobody_settles_the_last_ones_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudevents_kit import _contract

    monkeypatch.setattr(_contract, "_MOST_UNSETTLED", 10)
    once = stages.deduplicate()
    chain = wrap(Handler(*[DOWN] * 100).handle, once, dead_letters(MemoryDeadLetterStore(), destination="d"))
    for number in range(100):
        await chain(new(id=f"{number}"))
    assert once.counts == {"handed_over": 100}
    assert len(_contract._unsettled) == 10


# With an inbox.


@pytest.mark.parametrize("parks", [True, False])
@pytest.mark.parametrize("url", ["memory:", "sqlite"])
async def test_behind_an_inbox_it_lets_redriven_and_parked_events_through(
    url: str, tmp_path: Path, *, parks: bool
) -> None:
    """The queue is outside: it has what is to be done, and what is behind it knows what is done."""
    calls = list[str]()

    async def work(event: Event) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            raise Reject("not yet")

    async def until(inbox: Stage, what: str) -> None:
        while not inbox.counts[what]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async with open_store(f"sqlite:///{tmp_path}/x.db" if url == "sqlite" else url) as store, asyncio.timeout(10):
        dead_letter = None if parks else keeper(store.dead_letters, "inbox")
        inbox = stages.queue(store=store.queue, poll=0.02, dead_letter=dead_letter)
        once = stages.deduplicate(store.deduplication)
        async with Receiver(work, inbox, once, port=0) as receiver, Sender(receiver.url) as sender:
            assert (await sender.send(new())).status == 202
            await until(inbox, "parked" if parks else "dead_lettered")
            if parks:
                assert (await sender.send(new())).status == 202
            else:
                assert (await redrive(store.dead_letters, to=sender, dry_run=False)).delivered == 1
            await until(inbox, "done")
            assert (await sender.send(new())).status == 202
            await until(once, "duplicate")
    assert calls == ["1", "1"]


async def test_in_front_of_an_inbox_it_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    store = open_store("memory:")
    for chain, warned in (
        ((stages.deduplicate(), passing, stages.queue(store=store.scoped("1").queue)), True),
        ((stages.queue(store=store.scoped("2").queue), stages.deduplicate()), False),
        ((stages.deduplicate(), stages.queue()), False),
    ):
        caplog.clear()
        async with stages.running(wrap(nothing, *chain)):
            assert ["outside of a queue" in one for one in caplog.messages] == [True] * warned
