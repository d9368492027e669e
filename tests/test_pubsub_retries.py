"""`FanOut`: each subscriber has its own retries, deadline and dead letters."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from cloudevents_kit import (
    Ack,
    Event,
    HandlerSink,
    Nack,
    Reject,
    Result,
    Retry,
    RetryPolicy,
    Undelivered,
    stages,
)
from cloudevents_kit.dead_letter import keeper, letters
from cloudevents_kit.pubsub import FanOut, PartialAck, Subscription
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from tests.support.branches import DOWN, SECRET, Seen
from tests.support.events import new
from tests.support.outcomes import ScriptedSink
from tests.support.pubsub import NO_ANSWER, DeadLetters, idle, reason
from tests.support.virtual import LoopClock, virtual


@virtual
async def test_each_has_its_own_retries_and_lists_its_attempts(clock: LoopClock) -> None:
    results: Iterator[Result] = iter([DOWN, NO_ANSWER, Ack()])

    class Flaky:
        async def send(self, event: Event, /) -> Result:
            return next(results)

    seen = Seen()
    fan_out = FanOut(
        [
            Subscription("flaky", Flaky(), retry=RetryPolicy(jitter=False, initial=1)),
            Subscription("busy", seen.failing("busy", Retry(after=2)), retry=RetryPolicy(attempts=2, jitter=False)),
            Subscription("final", seen.failing("final", Reject()), retry=RetryPolicy()),
            Subscription("conflict", seen.failing("conflict", Retry(status=503)),
                         retry=RetryPolicy(attempts=3, initial=0, statuses=frozenset())),
            Subscription("none", seen.failing("none", Retry())),
        ],
        clock=clock,
    )  # fmt: skip
    published = await fan_out.publish(new())
    assert [(one.number, one.status, one.error, one.wait) for one in published["flaky"].attempts] == [
        (1, 503, None, 0.0),
        (2, None, "refused", 7.0),
        (3, 204, None, 2.0),
    ]
    assert published["flaky"].elapsed == clock.monotonic() == pytest.approx(9)
    assert [len(published[name].attempts) for name in ("busy", "final", "conflict", "none")] == [2, 1, 3, 0]
    assert seen.count("busy") == 2


async def test_a_dead_letter_tells_what_its_subscriber_raised() -> None:
    """In this process that is known, though a result has no word for it."""

    async def broken(event: Event) -> None:
        raise KeyError("no such shelf")

    class Raises:
        async def send(self, event: Event, /) -> Result:
            raise KeyError("no such shelf")

    store, causes = MemoryDeadLetterStore(), list[BaseException | None]()
    retried = HandlerSink(broken, stages.retry(RetryPolicy(attempts=2, initial=0)))
    fan_out = FanOut(
        [
            Subscription("plain", broken, dead_letter=keeper(store, "plain")),
            Subscription("raises", Raises(), dead_letter=keeper(store, "raises")),
            Subscription("retried", retried, dead_letter=keeper(store, "retried")),
            Subscription("hook", broken, dead_letter=lambda event, error: causes.append(error.__cause__)),
        ]
    )
    published = await fan_out.publish(new())
    assert [(one.destination, one.error, one.reason, one.path, one.attempts) async for one in letters(store)] == [
        ("plain", "KeyError", "'no such shelf'", (), 1),
        ("raises", "KeyError", "'no such shelf'", (), 1),
        ("retried", "KeyError", "'no such shelf'", ("retry",), 2),
    ]
    assert [type(cause) for cause in causes] == [KeyError]
    assert "shelf" not in repr(published)


@virtual
async def test_what_the_policy_does_not_retry_is_not_tried_again(clock: LoopClock) -> None:
    sink = ScriptedSink(Nack(status=409, retryable=True))
    policy = RetryPolicy(statuses=frozenset({429}))
    published = await FanOut([Subscription("s", sink, retry=policy)], clock=clock).publish(new())
    assert len(sink.sent) == 1
    assert published["s"].retryable is False  # type: ignore[union-attr]


@virtual
async def test_a_deadline_cuts_an_attempt_short_and_tells_of_those_before(clock: LoopClock) -> None:
    tries: list[float] = []

    async def work(event: Event) -> None:
        tries.append(clock.monotonic())
        if len(tries) > 1:
            await asyncio.sleep(1e6)
        raise Retry

    policy = RetryPolicy(jitter=False, initial=1, deadline=10)
    published = await FanOut([Subscription("s", work, retry=policy)], clock=clock).publish(new())
    result = published["s"]
    assert isinstance(result, Undelivered)
    assert (result.reason, len(result.attempts), tries) == ("timeout", 1, [0, 1])
    assert clock.monotonic() == pytest.approx(10)


async def test_a_dead_letter_that_was_taken_counts_as_stored_and_is_still_told() -> None:
    stored = ScriptedSink(Ack(status=202))
    seen = Seen()
    subscriptions = [
        Subscription("sink", seen.sink("x", DOWN), dead_letter=stored),
        Subscription("hook", seen.sink("x", NO_ANSWER), dead_letter=DeadLetters()),
        Subscription("own", seen.sink("x", Nack(dead_lettered=True))),
        Subscription("well", seen.handler("well"), dead_letter=stored),
    ]
    fan_out = FanOut(subscriptions)
    event = new()
    result = await fan_out.send(event)
    assert isinstance(result, PartialAck)
    assert result.status == 202
    assert [*result.failed] == ["sink", "hook", "own"]
    assert all(failure.dead_lettered for failure in result.failed.values())
    assert stored.sent == [event]
    assert fan_out.counts == {
        "failed.sink": 1, "dead_lettered.sink": 1, "failed.hook": 1, "dead_lettered.hook": 1, "failed.own": 1,
    }  # fmt: skip


def raising(event: Event, error: Exception) -> None:
    raise OSError(SECRET)


async def refusing(event: Event, error: Exception) -> Result:
    return DOWN


async def hanging(event: Event, error: Exception) -> None:
    await asyncio.sleep(1e6)


@pytest.mark.parametrize("dead_letter", [raising, refusing, hanging, ScriptedSink(DOWN), ScriptedSink(None)])
@pytest.mark.parametrize("failure", [Nack(422, "no"), Undelivered(reason="gone", error="x")])
def test_a_dead_letter_that_was_not_taken_makes_the_event_come_again(
    dead_letter: Any, failure: Result, caplog: pytest.LogCaptureFixture
) -> None:
    @virtual
    async def test(clock: LoopClock) -> None:
        fan_out = FanOut([Subscription("s", ScriptedSink(failure), dead_letter=dead_letter)])
        published = await fan_out.publish(new())
        result = published["s"]
        assert isinstance(result, Nack)
        status = 422 if isinstance(failure, Nack) else 502
        assert (result.status, result.retryable, result.dead_lettered) == (status, True, False)
        assert result.reason == f"{reason(failure)}; its dead letter was not taken"
        assert published.result.retryable is True  # type: ignore[union-attr]
        assert fan_out.counts == {"failed.s": 1, "dead_letter_failed.s": 1}
        assert clock.monotonic() == (pytest.approx(5) if dead_letter is hanging else 0)

    test()
    assert "subscriber s: its dead letter was not taken: id='1'" in caplog.text


@virtual
async def test_a_caller_that_is_cancelled_while_a_dead_letter_is_written_is_cancelled(clock: LoopClock) -> None:
    fan_out = FanOut([Subscription("s", ScriptedSink(DOWN), dead_letter=hanging)])
    task = asyncio.create_task(fan_out.publish(new()))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock.monotonic() == pytest.approx(1)
    assert fan_out.counts == {"failed.s": 1}
    assert idle(fan_out)
