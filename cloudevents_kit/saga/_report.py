"""What became of a saga, for those who ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudevents_kit.saga._journal import UNDO, State, Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What became of a saga so far."""

    id: str
    status: Status
    results: Mapping[str, Any]
    """What the steps that are done have returned, by name; also those that were compensated."""
    compensated: tuple[str, ...] = ()
    """The steps that were taken back, in that order."""
    errors: Mapping[str, str]
    """What the last attempt of a step, or of its compensation (``<step>:undo``), failed with."""
    reason: str = ""
    """Why it was compensated."""


def report_of(id: str, state: State) -> Report:
    """Return what ``state`` says."""
    acts = state.acts.items()
    return Report(
        id=id,
        status=state.status,
        results=state.results(),
        compensated=tuple(n.removesuffix(UNDO) for n, act in acts if n.endswith(UNDO) and act.status == "done"),
        errors={name: act.error for name, act in acts if act.error},
        reason=state.reason,
    )
