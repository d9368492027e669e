"""Subscribers, and what is told of publications."""

from __future__ import annotations

from typing import Any

from cloudevents_kit import Event, Result
from cloudevents_kit.pubsub import FanOut, Published
from tests.support.branches import Slow


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
