"""What became of a published event: a result per subscriber, and what a policy makes of them all.

Never a bare success: an acknowledgement that not all subscribers share says who failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit.stages._policy import Policy, group_of, needed, refusal

_DONE, _STORED = Ack(status=204), Ack(status=202)
GIVEN_UP = Undelivered(reason="closed", error="it was given up before it was done")


@dataclass(frozen=True, slots=True)
class PartialAck(Ack):
    """The policy is satisfied, but not every subscriber has handled the event."""

    failed: Mapping[str, Nack | Undelivered] = field(default_factory=dict)
    """What became of it where it failed, by subscriber; one with ``dead_lettered`` was stored."""


class Published(Mapping[str, Result]):
    """What became of one event: the result of each subscriber that wanted it, by name, in their order."""

    __slots__ = ("_results", "result")

    def __init__(self, results: Mapping[str, Result], result: Result) -> None:
        """Keep ``results``, and the ``result`` that they have together."""
        self._results = results
        self.result = result
        """What the policy makes of them: an Ack, a `PartialAck`, or a failure that names who failed."""

    @property
    def failed(self) -> Mapping[str, Nack | Undelivered]:
        """The results that are no Ack, dead letters included."""
        return {name: result for name, result in self._results.items() if not isinstance(result, Ack)}

    def raise_for_failed(self) -> None:
        """Raise an ExceptionGroup with a `DeliveryError` for each subscriber that failed, if there is one.

        If the event was sent to nobody, and that is a failure, it has an error for that.
        """
        failed = self.failed
        if not self._results and not isinstance(self.result, Ack):
            failed = {"all": self.result}
        if failed:
            raise group_of(failed, "subscribers")

    def __bool__(self) -> bool:
        """Be what the result is: true if the event is acknowledged."""
        return bool(self.result)

    def __getitem__(self, name: str) -> Result:
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    def __repr__(self) -> str:
        return f"Published({dict(self._results)!r}, result={self.result!r})"


@dataclass(frozen=True, slots=True)
class Queued:
    """Who has an event that was published without waiting. True if nobody who wants it has refused it."""

    taken: tuple[str, ...] = ()
    """The subscribers that will be sent it: until then it is in memory, and lost if the process dies."""
    refused: Mapping[str, Result] = field(default_factory=dict)
    """Why the others will not."""
    unhandled: bool = False
    """Whether there is no subscriber for it, and that is a failure."""

    def __bool__(self) -> bool:
        """Be false if the event, or a part of its way, would be lost."""
        return not self.unhandled and all(is_safe(result) for result in self.refused.values())


@dataclass(frozen=True, slots=True)
class Unsent:
    """An event that a subscriber has not handled when the fan-out was closed."""

    event: Event
    """The event."""
    subscriber: str
    """Who should have got it."""
    possibly_delivered: bool = False
    """Whether it was at work already."""


class Publication:
    """An event on its way to subscribers that nobody waits for."""

    __slots__ = ("event", "left", "results")

    def __init__(self, event: Event, names: Iterable[str]) -> None:
        """Begin with all of ``names`` given up."""
        self.event = event
        self.results: dict[str, Result] = dict.fromkeys(names, GIVEN_UP)
        self.left = len(self.results)


def judge(results: Mapping[str, Result], policy: Policy) -> Result:
    """Return what ``policy`` makes of ``results``."""
    failed: dict[str, Nack | Undelivered] = {}
    status = 204
    for name, result in results.items():
        if not isinstance(result, Ack):
            failed[name] = result
        elif result.status == 202:
            status = 202
    if not failed:
        return _DONE if status == 204 else _STORED
    lost = {name: failure for name, failure in failed.items() if not failure.dead_lettered}
    if len(results) - len(lost) < needed(policy, len(results)):
        return refusal(lost, len(results), "subscribers")
    return PartialAck(status=202 if len(lost) < len(failed) else status, failed=failed)


def is_safe(result: Result) -> bool:
    """Tell whether an event is handled, or stored."""
    return isinstance(result, Ack) or result.dead_lettered
