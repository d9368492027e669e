"""`Replaceable`: a chain is exchanged while events are on it; no event notices, and every part is closed in time."""

import asyncio
from time import perf_counter
from typing import Any, Self

import pytest

from cloudevents_kit import Ack, Event, Handler, Outcome, Receiver, RetryPolicy, Sender, current_event, settle, wrap
from cloudevents_kit._lifecycle import parts_of, walk
from cloudevents_kit.stages import PASS, Replaceable, background, route, running, tap
from tests.support.branches import Seen, Slow, other_tasks
from tests.support.events import new
from tests.support.parts import Gate, HandlerPart, StagePart
from tests.support.virtual import LoopClock, virtual


class Strict:
    """A stage that fails when it is used while it is not open, or opened twice; it takes its time for both."""

    def __init__(self, seconds: float = 0.0, opening: Exception | None = None) -> None:
        self.seconds, self.opening = seconds, opening
        self.is_open = False
        self.times_opened = self.times_closed = self.inside = self.drained = 0

    async def __aenter__(self) -> Self:
        assert not self.is_open
        await asyncio.sleep(self.seconds)
        if self.opening is not None:
            raise self.opening
        self.is_open = True
        self.times_opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self.is_open
        assert not self.inside
        self.is_open = False
        await asyncio.sleep(self.seconds)
        self.times_closed += 1

    async def __call__(self, event: Event, call_next: Handler) -> Outcome:
        assert self.is_open
        self.inside += 1
        try:
            return await call_next(event)
        finally:
            self.inside -= 1
            assert self.is_open

    def drain(self) -> None:
        self.drained += 1


async def test_new_events_use_the_new_chain_and_running_ones_end_on_the_old() -> None:
    """K-P2: and replacing takes less than 10 ms."""
    seen, gate, old, fresh = Seen(), Gate(), Strict(), Strict()
    live = Replaceable(gate, old)
    async with live:
        under_way = asyncio.create_task(settle(live, new()))
        await gate.wait()
        began = perf_counter()
        await live.replace(wrap(seen.handler("new"), fresh))
        assert perf_counter() - began < 0.01
        assert await settle(live, new())
        assert (seen, old.is_open, old.inside) == (["new"], True, 1)
        gate.leave.set()
        assert await under_way == Ack()
        await asyncio.sleep(0.01)
        assert (gate.ended, old.is_open, fresh.is_open) == (["done"], False, True)
    assert not fresh.is_open


@virtual
async def test_fifty_events_at_once_while_it_is_replaced_twenty_times_are_all_handled(clock: LoopClock) -> None:
    """K-P2: none is lost, none refused, and every part is opened and closed once."""
    parts = [Strict(0.25) for _ in range(21)]
    slow = Slow(0.3)
    live = Replaceable(slow, parts[0])
    results: list[Any] = []

    async def send(number: int) -> None:
        for turn in range(20):
            results.append(await settle(live, new(id=f"{number}.{turn}")))
            await asyncio.sleep(number / 100)

    async with live:
        senders = [asyncio.create_task(send(number)) for number in range(50)]
        for part in parts[1:]:
            await asyncio.sleep(0.1)
            await live.replace(slow, part)
        await asyncio.gather(*senders)
    assert (results, slow.ends) == ([Ack()] * 1000, ["done"] * 1000)
    assert [(part.times_opened, part.times_closed) for part in parts] == [(1, 1)] * 21
    assert not other_tasks()


@virtual
async def test_events_that_are_cancelled_let_go_of_their_chain() -> None:
    old, slow = Strict(), Slow(60)
    live = Replaceable(slow, old)
    async with live:
        tasks = [asyncio.create_task(settle(live, new(id=str(number)))) for number in range(50)]
        await asyncio.sleep(1)
        await live.replace(Seen().handler("new"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(1)
        assert (slow.ends, old.times_closed) == (["cancelled"] * 50, 1)


@virtual
async def test_a_part_that_both_chains_have_stays_open() -> None:
    both, old, fresh = Strict(1), Strict(1), Strict(1)
    slow = Slow(0.5)
    live = Replaceable(slow, both, old)
    async with live:
        under_way = asyncio.create_task(settle(live, new()))
        await asyncio.sleep(0)
        await live.replace(slow, fresh, both)
        assert await under_way
        assert await settle(live, new())
        await asyncio.sleep(5)
        assert (both.is_open, old.is_open, fresh.is_open) == (True, False, True)
    assert [part.times_opened for part in (both, old, fresh)] == [1, 1, 1]
    assert [part.times_closed for part in (both, old, fresh)] == [1, 1, 1]


@virtual
async def test_a_part_that_comes_back_while_it_is_being_closed_is_opened_again() -> None:
    part, slow = Strict(5), Slow(1)
    live = Replaceable(slow, part)
    async with live:
        await live.replace(slow)
        await asyncio.sleep(1)
        assert not part.is_open
        await live.replace(slow, part)
        assert part.is_open
        assert await settle(live, new())
    assert (part.times_opened, part.times_closed) == (2, 2)


@virtual
async def test_a_part_that_comes_back_before_it_was_closed_stays_open() -> None:
    part, slow = Strict(), Slow(5)
    live = Replaceable(slow, part)
    async with live:
        under_way = asyncio.create_task(settle(live, new()))
        await asyncio.sleep(1)
        await live.replace(slow)
        await live.replace(slow, part)
        assert await under_way
        await asyncio.sleep(1)
        assert part.is_open
    assert (part.times_opened, part.times_closed) == (1, 1)


async def test_a_chain_that_does_not_open_changes_nothing() -> None:
    seen, kept, good, bad = Seen(), Strict(), Strict(), Strict(opening=OSError("no"))
    live = Replaceable(seen.handler("old"), kept)
    async with live:
        with pytest.raises(ExceptionGroup) as caught:
            await live.replace(seen.handler("new"), bad, good, kept)
        assert [str(error) for error in caught.value.exceptions] == ["no"]
        assert (good.times_closed, kept.is_open) == (1, True)
        assert await settle(live, new())
    assert (seen, kept.times_closed) == (["old"], 1)


@virtual
async def test_a_replacement_that_is_cancelled_changes_nothing() -> None:
    seen, part = Seen(), Strict(10)
    live = Replaceable(seen.handler("old"))
    async with live:
        replacing = asyncio.create_task(live.replace(seen.handler("new"), part))
        await asyncio.sleep(1)
        replacing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replacing
        assert await settle(live, new())
    assert (seen, part.is_open) == (["old"], False)


async def test_an_old_chain_that_does_not_close_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    live = Replaceable(Seen().handler("old"), StagePart("A", [], closing=OSError("stuck")))
    async with live:
        await live.replace(Seen().handler("new"))
    (record,) = caplog.records
    assert record.getMessage() == "a chain that was replaced did not close cleanly"
    assert "OSError: stuck" in caplog.text


async def test_the_last_chain_that_does_not_close_is_an_error() -> None:
    with pytest.raises(ExceptionGroup):
        async with Replaceable(Seen().handler("old"), StagePart("A", [], closing=OSError("stuck"))):
            pass


async def test_parts_are_opened_from_the_inside_and_closed_from_the_outside() -> None:
    diary: list[str] = []
    live = Replaceable(HandlerPart("H", diary), StagePart("A", diary), StagePart("B", diary))
    async with live:
        await live.replace(HandlerPart("I", diary), StagePart("C", diary))
        await asyncio.sleep(0.01)
    assert diary == [
        "open H", "open B", "open A", "open I", "open C",
        "close A", "close B", "close H", "close C", "close I",
    ]  # fmt: skip


async def test_a_receiver_opens_it_and_it_opens_its_parts() -> None:
    old, fresh = Strict(), Strict()
    seen = Seen()
    live = Replaceable(seen.handler("old"), old, StagePart("it has nothing to drain", []))
    async with (
        Receiver(live, port=0) as receiver,
        Sender(receiver.url, retry=RetryPolicy.none()) as sender,
    ):
        assert await sender.send(new())
        await live.replace(seen.handler("new"), fresh, StagePart("nor has it", []))
        assert await sender.send(new())
    assert seen == ["old", "new"]
    assert [(part.times_opened, part.times_closed) for part in (old, fresh)] == [(1, 1)] * 2
    assert fresh.drained == 1


async def test_it_may_be_inside_a_chain_and_be_replaced_before_it_is_open() -> None:
    seen, part = Seen(), Strict()
    live = Replaceable(seen.handler("first"), Strict())
    handler = wrap(seen.handler("next"), route("type", {"t": live}, default=PASS))
    await live.replace(seen.handler("second"), part)
    await live.replace(seen.handler("third"), part)
    for _ in range(2):
        async with running(handler):
            assert await settle(handler, new())
    assert (seen, part.times_opened, part.times_closed) == (["third"] * 2, 2, 2)


async def test_it_works_without_being_opened_if_its_parts_do() -> None:
    seen = Seen()
    live = Replaceable(seen.handler("old"), tap(lambda event: None))
    assert await settle(live, new())
    await live.replace(seen.handler("new"))
    assert await settle(live, new())
    assert seen == ["old", "new"]


async def test_it_may_be_part_of_two_chains() -> None:
    part = Strict()
    live = Replaceable(Seen().handler("a"), part)
    async with running(live):
        async with running(wrap(Seen().handler("next"), tap(lambda event: None)), live):
            assert part.is_open
        assert part.is_open
    assert (part.times_opened, part.times_closed) == (1, 1)


@virtual
async def test_closed_with_an_event_on_an_old_chain_it_closes_that_as_well() -> None:
    stage = background(Slow(1))
    slow = Slow(60)
    live = Replaceable(slow, stage)
    async with live:
        under_way = asyncio.create_task(settle(live, new()))
        await asyncio.sleep(0)
        await live.replace(Seen().handler("new"))
    assert not other_tasks() - {under_way}
    assert await under_way
    assert stage.counts == {"done": 1}


async def test_a_plain_function_is_a_handler_and_events_know_themselves() -> None:
    found: list[Event | None] = []
    live = Replaceable(lambda event: found.append(current_event()))
    event = new()
    await settle(live, event)
    assert found == [event]


def test_its_chain_is_seen_but_its_parts_are_its_own() -> None:
    part = Strict()
    live = Replaceable(Seen().handler("a"), part)
    assert live.branches.keys() == {"handler"}
    assert part in walk(live)
    assert parts_of(live) == [live]


@pytest.mark.parametrize(("handler", "stages"), [(1, ()), (print, (1,)), (print, (print, Seen().handler("a")))])
def test_what_is_no_chain_is_refused(handler: Any, stages: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match=r"handler|stage"):
        Replaceable(handler, *stages)
