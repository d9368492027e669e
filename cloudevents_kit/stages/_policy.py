"""How many of those that had an event must have succeeded, and what it means if too few did.

Shared by all that hand one event to several: a result each, and never a success that hides a failure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cloudevents_kit._arguments import check_count
from cloudevents_kit._errors import DeliveryError
from cloudevents_kit._result import Nack, Undelivered


@dataclass(frozen=True, slots=True)
class Quorum:
    """A policy of `fan_out` and `FanOut`; see `quorum`."""

    count: int
    """How many must succeed."""

    def __str__(self) -> str:
        """Write it as it was made."""
        return f"quorum({self.count})"


def quorum(count: int) -> Quorum:
    """Let a fan-out succeed when ``count`` of those that had the event have."""
    check_count("count", count)
    return Quorum(count)


Policy = Literal["all", "best_effort"] | Quorum
Failure = Nack | Undelivered


def needed(policy: Policy, count: int) -> int:
    """Return how many of ``count`` must succeed, which may be more than there are. Raises ValueError for no policy."""
    match policy:
        case "all":
            return count
        case "best_effort":
            return 0
        case Quorum(count=wanted):
            return wanted
        case _:
            raise ValueError(f"policy: must be 'all', 'best_effort' or quorum(n), not {policy!r}")


def names(failed: Mapping[str, Failure]) -> str:
    """Name those that failed, each with how it did."""
    return ", ".join(f"{name} ({_word(failure)})" for name, failure in failed.items())


def _word(failure: Failure) -> int | str:
    return failure.status if isinstance(failure, Nack) else failure.reason


def refusal(failed: Mapping[str, Failure], count: int, what: str) -> Nack:
    """Return the worst of what became of ``what``: what is worth sending again counts most, and the longest wait."""
    nacks = [failure if isinstance(failure, Nack) else _NO_ANSWER for failure in failed.values()]
    worst = max(nacks, key=lambda nack: (nack.retryable, nack.status))
    waits = [nack.retry_after for nack in nacks if nack.retryable and nack.retry_after is not None]
    reason = f"{len(failed)} of {count} {what} failed: {names(failed)}"
    status = 422 if worst.status == 410 else worst.status  # one that is gone closes nothing else
    return Nack(status, reason, retryable=worst.retryable, retry_after=max(waits, default=None))


#: What an Undelivered means to whoever is further out; see `outcome_of`.
_NO_ANSWER = Nack(status=502, retryable=True)


def group_of(failed: Mapping[str, Failure], what: str) -> ExceptionGroup[DeliveryError]:
    """Return one exception with all failures."""
    return ExceptionGroup(f"{what} failed", [error_of(name, failure) for name, failure in failed.items()])


def error_of(name: str, failure: Failure) -> DeliveryError:
    """Return ``failure`` as an exception that says whose it is."""
    try:
        failure.raise_for_outcome()
    except DeliveryError as error:
        told = DeliveryError(failure, f"{name}: {error}")
        if error.__cause__ is not None:
            told.__cause__ = error.__cause__
        return told
