"""What failed for good is handed over, by one rule for all who have a ``dead_letter``."""

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Ack, DeliveryError, Event, Nack, Undelivered
from cloudevents_kit._hand_over import check_taker, hand_over
from tests.support.events import new

ERROR = ValueError("what it failed with")


class Sink:
    def __init__(self, result: object) -> None:
        self.result = result

    async def send(self, event: Event, /) -> Any:
        return self.result


async def test_a_hook_may_be_async_or_not_and_gets_the_event_and_the_error() -> None:
    taken: list[tuple[Event, Exception]] = []
    event = new()

    async def hook(event: Event, error: Exception) -> None:
        taken.append((event, error))

    await hand_over(hook, event, ERROR, 1)
    await hand_over(lambda *given: taken.append(given), event, ERROR, 1)
    await hand_over(Sink(Ack()), event, ERROR, 1)
    assert taken == [(event, ERROR)] * 2


@pytest.mark.parametrize("result", [Nack(503, "full"), Undelivered(error="nobody is there")])
async def test_a_result_that_is_no_ack_means_that_it_was_not_taken(result: Nack | Undelivered) -> None:
    for taker in (Sink(result), lambda event, error: result):
        with pytest.raises(DeliveryError):
            await hand_over(taker, new(), ERROR, 1)


async def test_a_sink_that_returns_no_result_has_not_taken_it() -> None:
    with pytest.raises(TypeError, match="a sink returned NoneType, which is no result"):
        await hand_over(Sink(None), new(), ERROR, 1)


async def test_it_has_its_time_and_no_more() -> None:
    async def hang(event: Event, error: Exception) -> None:
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await hand_over(hang, new(), ERROR, 0.01)


async def test_a_cancellation_of_its_own_is_a_failure_and_one_from_outside_passes() -> None:
    begun = asyncio.Event()

    async def cancelled(event: Event, error: Exception) -> None:
        raise asyncio.CancelledError

    async def hang(event: Event, error: Exception) -> None:
        begun.set()
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="as if it had been cancelled"):
        await hand_over(cancelled, new(), ERROR, 1)
    task = asyncio.create_task(hand_over(hang, new(), ERROR, 10))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_what_can_take_nothing_is_refused() -> None:
    check_taker("dead_letter", None)
    check_taker("dead_letter", Sink(Ack()))
    check_taker("dead_letter", print)
    for wrong in (3, Sink):
        with pytest.raises(TypeError, match="dead_letter"):
            check_taker("dead_letter", wrong)
