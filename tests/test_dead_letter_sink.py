"""The sink that keeps what its sink does not deliver, and tells its caller the truth."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    Attempt,
    DeliveryError,
    Event,
    HandlerSink,
    Nack,
    Result,
    RetryPolicy,
    Sender,
    Undelivered,
    forward,
    settle,
    stages,
)
from cloudevents_kit.dead_letter import DeadLetterSink, forwarded
from cloudevents_kit.stages import StageError
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.testing._dead_letters import stored
from cloudevents_kit.testing._events import EVENTS, exact
from tests.support.clock import START, ManualClock
from tests.support.events import new
from tests.support.peer import Peer, answer
from tests.support.virtual import virtual

TRIES = (Attempt(1, 503, None, 0.0, 0.5), Attempt(2, None, "refused", 1.0, 0.25))
NACK = Nack(status=422, reason="no such order", attempts=TRIES, elapsed=1.75)
NO_ANSWER = Undelivered(reason="timeout", error="no answer in time", possibly_delivered=True)


class Fixed:
    """A sink that always ends in the same way."""

    url = "https://user:hunter2@sink.example/?token=hunter2"

    def __init__(self, end: Result | BaseException) -> None:
        self.end = end

    async def send(self, event: Event, /) -> Result:
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


class Full:
    async def add(self, letter: object, /) -> bool:
        return False


async def test_what_is_acknowledged_is_left_alone() -> None:
    store, ack = MemoryDeadLetterStore(), Ack(status=200, reply=new(id="reply"))
    sink = DeadLetterSink(Fixed(ack), store)
    assert await sink.send(new()) is ack
    assert (len(store), dict(sink.counts)) == (0, {})


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
async def test_a_refused_event_is_kept_as_it_was(event: Event) -> None:
    """K-D2."""
    store = MemoryDeadLetterStore()
    await DeadLetterSink(Fixed(NACK), store).send(event)
    [found] = await stored(store)
    assert exact(found.event) == exact(event)


async def test_a_refusal_is_a_letter_and_its_caller_still_gets_the_refusal(clock: ManualClock) -> None:
    """K-D2, DL-05: it is no Ack, and it says that the event is kept."""
    store = MemoryDeadLetterStore()
    result = await DeadLetterSink(Fixed(NACK), store, clock=clock).send(new())
    assert result == replace(NACK, dead_lettered=True)
    assert not result
    [found] = await stored(store)
    assert (found.direction, found.destination) == ("outbound", "https://sink.example/?token=***")
    assert (found.status, found.reason, found.error, found.attempts) == (422, "no such order", "", 2)
    assert found.possibly_delivered is False
    assert [(tried.at - START, tried.status, tried.error, tried.elapsed) for tried in found.tries] == [
        (timedelta(0), 503, None, 0.5),
        (timedelta(seconds=1.5), None, "refused", 0.25),
    ]
    assert forwarded(found)["knativeerrordest"] == "https://sink.example/?token=***"


async def test_no_answer_is_a_letter_that_knows_that_the_event_may_have_arrived() -> None:
    """K-D2."""
    store = MemoryDeadLetterStore()
    result = await DeadLetterSink(Fixed(NO_ANSWER), store).send(new())
    assert result == replace(NO_ANSWER, dead_lettered=True)
    [found] = await stored(store)
    assert (found.status, found.error, found.reason) == (None, "timeout", "no answer in time")
    assert found.possibly_delivered
    assert [(tried.status, tried.error) for tried in found.tries] == [(None, "timeout")]


@pytest.mark.parametrize(("error", "maybe"), [("timeout", True), ("reset", True), ("refused", False), ("dns", False)])
async def test_an_earlier_attempt_without_an_answer_may_have_arrived_too(error: Any, maybe: bool) -> None:
    store = MemoryDeadLetterStore()
    tries = (Attempt(1, None, error), Attempt(2, 400))
    await DeadLetterSink(Fixed(Nack(status=400, attempts=tries)), store).send(new())
    assert [found.possibly_delivered for found in await stored(store)] == [maybe]


async def test_real_retries_that_are_used_up_are_one_letter(clock: ManualClock) -> None:
    """K-D2, DL-01."""
    store, policy = MemoryDeadLetterStore(), RetryPolicy(attempts=3, initial=1, jitter=False)
    async with Peer(answer(503, body=b"busy\n")) as peer, Sender(peer.url, retry=policy, clock=clock) as sender:
        result = await DeadLetterSink(sender, store, clock=clock).send(new())
        assert isinstance(result, Nack)
        assert (result.status, result.dead_lettered, len(result.attempts)) == (503, True, 3)
        [found] = await stored(store)
        assert (found.status, found.reason, found.attempts, found.destination) == (503, "busy", 3, peer.url)
        assert [tried.status for tried in found.tries] == [503, 503, 503]
        assert [(tried.at - START).total_seconds() for tried in found.tries] == pytest.approx([0, 1, 3], abs=0.5)


async def test_a_caller_may_be_content_with_knowing_that_somebody_has_it() -> None:
    store = MemoryDeadLetterStore()
    sink = DeadLetterSink(Fixed(NACK), store, acknowledge=True)
    assert await sink.send(new()) == Ack(status=202, attempts=TRIES, elapsed=1.75)
    assert await settle(forward(sink), new(id="2")) == Ack(status=202)
    assert len(store) == 2


async def test_without_that_whoever_forwards_accepts_what_is_stored_and_only_that() -> None:
    assert await settle(forward(DeadLetterSink(Fixed(NACK), MemoryDeadLetterStore())), new()) == Ack(status=202)
    full = DeadLetterSink(Fixed(NACK), Full())
    assert (await settle(forward(full), new())).status == 422


async def test_which_results_make_letters() -> None:
    store = MemoryDeadLetterStore()

    def is_final(result: Result) -> bool:
        return isinstance(result, Nack)

    for end, count in ((NACK, "dead_lettered"), (NO_ANSWER, "propagated")):
        sink = DeadLetterSink(Fixed(end), store, on=is_final)
        assert getattr(await sink.send(new()), "dead_lettered", None) is is_final(end)
        assert sink.counts == {count: 1}
    assert len(store) == 1


@pytest.mark.parametrize("acknowledge", [True, False])
@pytest.mark.parametrize("end", [NACK, NO_ANSWER], ids=["nack", "undelivered"])
async def test_a_store_that_fails_is_told_with_the_result_and_in_the_log(
    end: Nack | Undelivered, acknowledge: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """K-D2, DL-07: never a silent loss."""
    sink = DeadLetterSink(Fixed(end), Full(), acknowledge=acknowledge)
    result = await sink.send(new())
    assert type(result) is type(end)
    assert isinstance(result, Nack | Undelivered)
    assert not result.dead_lettered
    text = result.reason if isinstance(result, Nack) else result.error
    assert text.endswith("(and the dead-letter store did not take it)")
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    both = record.exc_info[1]
    assert isinstance(both, ExceptionGroup)
    assert [type(error).__name__ for error in both.exceptions] == ["DeliveryError", "RuntimeError"]
    assert sink.counts == {"dead_letter_failed": 1}


async def test_what_is_kept_already_is_not_kept_twice() -> None:
    store = MemoryDeadLetterStore()
    kept = replace(NACK, dead_lettered=True)
    assert await DeadLetterSink(Fixed(kept), store).send(new()) == kept
    assert await DeadLetterSink(Fixed(kept), store, acknowledge=True).send(new()) == Ack(
        status=202, attempts=TRIES, elapsed=1.75
    )
    assert len(store) == 0


@pytest.mark.parametrize("kind", ["raises", "answers later"])
async def test_an_on_that_fails_loses_nothing_silently(kind: str) -> None:
    async def later() -> bool:
        return False

    def broken(result: Result) -> Any:
        if kind == "raises":
            raise KeyError
        return later()

    result = await DeadLetterSink(Fixed(NACK), MemoryDeadLetterStore(), on=broken).send(new())
    assert isinstance(result, Nack)
    assert "did not take it" in result.reason


@pytest.mark.parametrize(
    "error",
    [
        TypeError("event: must be an Event"),
        asyncio.CancelledError(),
        DeliveryError(NACK, "nack"),
        StageError(("a",), ("/s", "1"), elapsed=0),
    ],
    ids=repr,
)
async def test_what_a_sink_raises_passes_and_is_never_an_ack(error: BaseException) -> None:
    store = MemoryDeadLetterStore()
    for on in (None, lambda _: False):
        with pytest.raises(type(error)):
            await DeadLetterSink(Fixed(error), store, on=on).send(new())
    assert len(store) == 0


@virtual
async def test_storing_is_not_cut_short_by_a_cancellation() -> None:
    """K-P10."""

    class Slow(MemoryDeadLetterStore):
        async def add(self, *given: Any) -> bool:
            await asyncio.sleep(3)
            return await super().add(*given)

    store = Slow()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await DeadLetterSink(Fixed(NACK), store).send(new())
    assert len(store) == 1


def test_a_letter_that_is_lost_with_a_cancelled_sender_is_told(caplog: pytest.LogCaptureFixture) -> None:
    class Away:
        async def add(self, letter: object, /) -> bool:
            await asyncio.sleep(3)
            raise OSError("away")

    @virtual
    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await DeadLetterSink(Fixed(NACK), Away()).send(new())
        await asyncio.sleep(0)

    run()
    assert caplog.messages == ["lost by its sink, and by the dead-letter store: id='1' source='/s' type='t'"]


async def test_what_became_of_a_sent_event_is_not_the_fate_of_the_one_being_handled() -> None:
    sink = DeadLetterSink(Fixed(NACK), MemoryDeadLetterStore())

    async def handler(event: Event) -> None:
        await sink.send(new(id="other"))

    metrics = stages.Metrics()
    observed = stages.observe(handler, metrics)
    async with stages.running(observed):
        assert await settle(observed, new())
    assert metrics.snapshot()["outcomes"] == {"acked": 1}
    assert sink.counts == {"dead_lettered": 1}


async def test_a_thousand_events_to_a_dead_sink_are_a_thousand_letters() -> None:
    store = MemoryDeadLetterStore()
    sink = DeadLetterSink(Fixed(Undelivered(reason="refused", error="nobody listens")), store)
    results = await asyncio.gather(*(sink.send(new(id=f"{number}")) for number in range(1000)))
    assert all(isinstance(result, Undelivered) and result.dead_lettered for result in results)
    found = await stored(store)
    assert {one.event.id for one in found} == {f"{number}" for number in range(1000)}
    assert {(one.error, one.destination, one.attempts) for one in found} == {
        ("refused", "https://sink.example/?token=***", 1)
    }


def test_what_makes_no_sense_is_refused() -> None:
    store, sink = MemoryDeadLetterStore(), Fixed(NACK)
    wrong: list[tuple[Callable[[], object], type[Exception], str]] = [
        (lambda: DeadLetterSink(object(), store), TypeError, "sink: must be a Sink"),  # type: ignore[arg-type]
        (lambda: DeadLetterSink(sink, object()), TypeError, "store: must be a DeadLetterStore"),  # type: ignore[arg-type]
        (lambda: DeadLetterSink(HandlerSink(print), store), TypeError, "destination: .* which has no url"),
        (lambda: DeadLetterSink(sink, store, on="all"), TypeError, "on: must be callable"),  # type: ignore[arg-type]
        (lambda: DeadLetterSink(sink, store, on=sink.send), TypeError, "on: must be a plain function"),  # type: ignore[arg-type]
        (lambda: DeadLetterSink(sink, store, acknowledge=1), TypeError, "acknowledge: must be True or False"),  # type: ignore[arg-type]
        (lambda: DeadLetterSink(sink, store, timeout=0), ValueError, "timeout: must be above 0"),
    ]
    for make, error, text in wrong:
        with pytest.raises(error, match=text):
            make()


def test_it_is_described_without_its_address() -> None:
    found = str(stages.describe(DeadLetterSink(Fixed(NACK), MemoryDeadLetterStore())))
    assert found.splitlines() == ["sink DeadLetterSink", "  sink: sink Fixed"]
