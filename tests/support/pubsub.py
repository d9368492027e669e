"""Subscribers, and what is told of publications."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit import Ack, Event, Nack, Result, RetryPolicy, Undelivered
from cloudevents_kit.pubsub import DurableFanOut, FanOut, Published, Subscription
from cloudevents_kit.stores import open_store
from tests.support.branches import Seen, Slow

LIMITS = pytest.mark.parametrize("limit", [1, 2, None])
NO_ANSWER = Undelivered(reason="refused")
SOON = RetryPolicy(attempts=3, initial=0.001, max_delay=0.002)
STORED, BUSY = Ack(status=202), Nack(503, "busy", retryable=True)


def three(seen: Seen, result: Result | None = None) -> list[Subscription]:
    """Subscribers of which the second one answers ``result``."""
    return [
        Subscription("a", seen.handler("a")),
        Subscription("b", seen.sink("b", result)),
        Subscription("c", seen.handler("c")),
    ]


class Reports(list[tuple[str, dict[str, str]]]):
    """A report function: the id of each event, and the outcomes by subscriber."""

    def __call__(self, event: Event, published: Published) -> None:
        self.append((event.id, outcomes(published)))


class DeadLetters(list[tuple[str, str]]):
    """A dead letter function: the id of each event, and what it was told."""

    def __call__(self, event: Event, error: Exception) -> None:
        self.append((event.id, str(error)))


def outcomes(published: Published) -> dict[str, str]:
    return {name: result.outcome for name, result in published.items()}


def reason(result: Result) -> Any:
    """The reason of a failure."""
    assert not result.is_ack
    return result.reason  # type: ignore[union-attr]


def idle(fan_out: FanOut) -> bool:
    """Whether no subscriber has or awaits anything."""
    now: Any = fan_out.status["subscribers"]
    return all(one == {"running": 0, "waiting": 0} for one in now.values())


class Hanging(Slow):
    """A handler that never ends by itself."""

    def __init__(self) -> None:
        super().__init__(1e6)


async def handled(fan_out: DurableFanOut, *names: str) -> None:
    """Wait until nothing is stored any more for those named, or for anybody."""
    async with asyncio.timeout(20):
        while any(lag.waiting for name, lag in (await fan_out.lag()).items() if name in names or not names):  # noqa: ASYNC110 - other processes may do it
            await asyncio.sleep(0.002)


class Got(list[str]):
    """A handler: the ids of the events that it got. It refuses those whose ids it was made with."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused

    async def __call__(self, event: Event) -> None:
        self.append(event.id)
        if event.id in self.refused:
            raise OSError


def durable(*subscriptions: Subscription, **given: Any) -> DurableFanOut:
    return DurableFanOut(given.pop("store", None) or open_store("memory:"), subscriptions, **{"poll": 0.005, **given})
