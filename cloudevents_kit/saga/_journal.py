"""What is known of a saga while it runs, and the protocol of what keeps that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from cloudevents_kit import _json
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
    Times are seconds of the epoch by the clock of the caller; a journal has none of its own.
    """

    async def load(self, saga: str, id: str, /) -> tuple[str, int, float | None, str, bytes] | None:
        """Return an entry: id, version, when it is due, lease, state; None if there is none."""
        ...

    async def save(
        self, saga: str, id: str, state: bytes, /, *, version: int, due: float | None, lease: str, expires: float | None
    ) -> bool:
        """Make this the entry, as ``version`` + 1, if it has ``version`` now: 0 if there is to be none.

        Otherwise return False, and change nothing. ``due`` None: nobody is to work on it.
        """
        ...

    async def lease(
        self, saga: str, /, *, now: float, until: float, token: str
    ) -> tuple[str, int, float | None, str, bytes] | None:
        """Take the entry that has been due for longest at ``now``: it gets the lease ``token``, and is due ``until``.

        Its version grows by 1, and what is returned is the entry as it is then. None if nothing is due.
        """
        ...

    async def forget(self, saga: str, /, *, now: float) -> int:
        """Remove the entries that have expired, and return how many."""
        ...


class Act(msgspec.Struct, omit_defaults=True):
    """What is known of a step, or of its compensation."""

    began: float
    status: Literal["begun", "pausing", "waiting", "done", "failed"] = "pausing"
    until: float = 0.0
    """When a pause before the next attempt, or the wait for an event, is over."""
    attempts: int = 0
    lost: int = 0
    """Attempts of which the process did not live to tell."""
    in_doubt: bool = False
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


class State(msgspec.Struct, omit_defaults=True):
    """What a journal keeps of a saga."""

    status: Status = "running"
    event: msgspec.Raw = msgspec.Raw(b"null")
    acts: dict[str, Act] = {}
    events: list[msgspec.Raw] = []
    """What came for it later."""
    deadline: float | None = None
    ended: float = 0.0
    reason: str = ""
    """Why it is being compensated."""
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
    """Write an event into a state."""
    return msgspec.Raw(_json.encode(event))


def unpack(packed: msgspec.Raw) -> Event:
    """Read what `pack` wrote."""
    return _json.decode(bytes(packed))


def plan(names: Iterable[tuple[str, bool]], state: State, now: float) -> str | None:
    """Return what is to be done next, and None if that is nothing; then the status says how it ended.

    ``names`` are the steps in their order, each with whether it has a compensation.
    """
    steps = [*names]
    if state.status == "running":
        found = _forward(steps, state, now)
        if state.status == "running":
            return found
    if state.status == "compensating":
        return _back(steps, state)
    return None


def _forward(steps: list[tuple[str, bool]], state: State, now: float) -> str | None:
    for name, _ in steps:
        act = state.acts.get(name)
        if act is not None and act.status == "done":
            continue
        late = state.deadline is not None and state.deadline <= now
        if act is not None and late and act.status != "failed":
            act.status, act.error = "failed", act.error or "out of time"
        if late or (act is not None and act.status == "failed"):
            state.status = "compensating"
            state.reason = f"step {name}: " + (act.error if act is not None else "out of time")
            return None
        return name
    state.status = "completed"
    return None


def _back(steps: list[tuple[str, bool]], state: State) -> str | None:
    known = {name for name, _ in steps}
    for name in to_undo(state):
        undo = state.acts.get(name + UNDO)
        if name not in known:
            state.status, state.reason = "stuck", f"{state.reason}; step {name} is not known any more"
            return None
        if undo is None or undo.status not in {"done", "failed"}:
            if dict(steps)[name]:
                return name + UNDO
        elif undo.status == "failed":
            state.status = "stuck"
            return None
    state.status = "compensated"
    return None


def to_undo(state: State) -> list[str]:
    """Return the steps that were done, or may have been, the last one first."""
    done = [name for name, act in state.acts.items() if act.status == "done" or act.in_doubt]
    return [name for name in reversed(done) if not name.endswith(UNDO)]
