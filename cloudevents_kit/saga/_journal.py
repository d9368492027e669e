"""What is known of a saga while it runs, and the protocol of what keeps that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from cloudevents_kit import _frozen
from cloudevents_kit._event import Event

Status = Literal["parked", "running", "compensating", "completed", "compensated", "stuck"]
OVER = frozenset({"completed", "compensated", "stuck"})


class Entry(NamedTuple):
    """One saga in a journal. A journal returns a plain tuple of these."""

    id: str
    version: int
    due: float | None
    lease: str
    state: bytes


class Journal(Protocol):
    """Keeps the sagas of any number of processes. Each method is atomic, and has stored what it did when it returns.

    ``saga`` and ``id`` are text of 256 characters at most, ``state`` is JSON that a journal need not understand.
    All times are seconds from now by the clock of the journal, which is one for all processes.
    """

    async def load(self, saga: str, id: str, /) -> tuple[str, int, float | None, str, bytes] | None:
        """Return an entry: id, version, in how many seconds it is due, lease, state; None if there is none."""
        ...

    async def save(
        self, saga: str, id: str, state: bytes, /, *, version: int, due: float | None, lease: str, expires: float | None
    ) -> bool:
        """Make this the entry, as ``version`` + 1, if it has ``version`` now: 0 if there is to be none.

        Otherwise return False, and change nothing. ``due`` None: nobody is to work on it; ``expires`` None: it stays.
        """
        ...

    async def lease(self, saga: str, seconds: float, token: str, /) -> tuple[str, int, float | None, str, bytes] | None:
        """Take the entry that has been due for longest: it gets the lease ``token``, and is due again in ``seconds``.

        Its version grows by 1, and what is returned is the entry as it is then. None if nothing is due.
        """
        ...

    async def read(
        self, saga: str, after: str, limit: int, /, *, expiring: bool
    ) -> Sequence[tuple[str, int, float | None, str, bytes]]:
        """Return the first ``limit`` entries whose id is above ``after``, in an order of ids that never changes.

        ``expiring``: with those that expire, which are most of them.
        """
        ...

    async def forget(self, saga: str, /) -> int:
        """Remove the entries that have expired, and return how many."""
        ...


class Act(msgspec.Struct, omit_defaults=True):
    """What is known of a step, or of its compensation."""

    began: float
    status: Literal["begun", "pausing", "waiting", "done", "failed"] = "pausing"
    until: float = 0.0
    """When a pause before the next attempt, or a wait, is over."""
    waited: float = 0.0
    """Seconds that do not count for its policy."""
    asked: bool = False
    """Whether it waits for an answer, and has failed if none comes."""
    attempts: int = 0
    lost: int = 0
    """Attempts of which the process did not live to tell."""
    in_doubt: bool = False
    seen: int = 0
    """How many events had come when it began, or were seen by an attempt that failed."""
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    answer: str = ""
    """As much of the error as anybody may know."""


class State(msgspec.Struct, omit_defaults=True):
    """What a journal keeps of a saga."""

    status: Status = "running"
    event: msgspec.Raw = msgspec.Raw(b"null")
    acts: dict[str, Act] = {}
    events: list[msgspec.Raw] = []
    """What came for it later."""
    deadline: float | None = None
    allowed: float = 0.0
    """Seconds that it had until then."""
    ended: float = 0.0
    reason: str = ""
    """Why it is being compensated."""
    answer: str = ""
    """As much of the reason as anybody may know."""
    handed_over: bool = False

    @property
    def started(self) -> bool:
        """Tell whether the event that starts it has come."""
        return bytes(self.event) != b"null"

    def results(self) -> dict[str, Any]:
        """Return what the steps that are done have returned."""
        return {
            name: msgspec.json.decode(act.result)
            for name, act in self.acts.items()
            if act.status == "done" and not name.endswith(UNDO)
        }


UNDO = ":undo"
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(State).decode


def pack(event: Event) -> msgspec.Raw:
    """Write an event into a state; it comes back exactly."""
    return msgspec.Raw(_frozen.pack(event))


def unpack(packed: msgspec.Raw) -> Event:
    """Read what `pack` wrote."""
    return _frozen.unpack(bytes(packed))


def plan(steps: Mapping[str, bool], state: State, now: float) -> str | None:
    """Return what is to be done next, and None if that is nothing; then the status says how it ended.

    ``steps`` are in their order, each with whether it has a compensation.
    """
    if state.status == "running":
        found = _forward(steps, state, now)
        if state.status == "running":
            return found
    return _back(steps, state, now) if state.status == "compensating" else None


def _forward(steps: Mapping[str, bool], state: State, now: float) -> str | None:
    late = state.deadline is not None and state.deadline <= now
    for name in steps:
        act = state.acts.get(name)
        if act is not None and act.status == "done":
            continue
        if act is not None and act.status == "failed":
            reason, answer = act.error, act.answer or "failed"
        elif late:
            reason, answer = _out_of_time(state, act), "out of time"
        else:
            return name
        state.status, state.reason, state.answer = "compensating", f"step {name}: {reason}", f"step {name}: {answer}"
        return None
    state.status = "completed"
    return None


def limit_of(state: State) -> str:
    """Name the deadline."""
    return f"the deadline of {state.allowed:g} s"


def _out_of_time(state: State, act: Act | None) -> str:
    text = f"out of time: {limit_of(state)} passed"
    if act is None:
        return text
    if act.error and limit_of(state) not in act.error:  # else it was cut off by that
        act.error = f"{act.error}, then {text}"
    act.status, act.error = "failed", act.error or text
    return act.error


def _back(steps: Mapping[str, bool], state: State, now: float) -> str | None:
    for name, act in reversed([*state.acts.items()]):
        undo = state.acts.get(name + UNDO)
        happened = not name.endswith(UNDO) and (act.status == "done" or act.in_doubt)
        if not happened or steps.get(name) is False or (undo is not None and undo.status == "done"):
            continue
        if name not in steps:
            undo = state.acts[name + UNDO] = Act(began=now, status="failed", error="the step is not known any more")
        if undo is None or undo.status != "failed":
            return name + UNDO
        state.status = "stuck"
        return None
    state.status = "compensated"
    return None


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
