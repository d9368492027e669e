"""What became of sagas, and what is done with those that are stuck."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from typing import get_args

from cloudevents_kit._arguments import check_kind
from cloudevents_kit.saga._journal import OVER, UNDO, Act, Entry, Report, State, Status, decode, encode, report_of
from cloudevents_kit.saga._runner import Runner
from cloudevents_kit.saga._steps import SagaError

_PAGE = 50
_EXPIRING: frozenset[Status] = frozenset({"completed", "compensated"})


class Looks(Runner):
    """Looks into its journal, also while it is closed."""

    async def find(self, id: str) -> Report | None:
        """Return what became of a saga so far; None if there is none."""
        _check_id(id)
        found = await self._load(id)
        return None if found is None else report_of(id, found[1])

    async def reports(self, *statuses: Status) -> AsyncGenerator[Report]:
        """Go through the sagas of this name, or those that have one of ``statuses`` (``"stuck"``), by their ids."""
        for status in statuses:
            if status not in get_args(Status):
                raise ValueError(f"statuses: must be of {', '.join(get_args(Status))}, not {status!r}")
        after, expiring = "", not statuses or not _EXPIRING.isdisjoint(statuses)
        while page := await self.driver.journal.read(self.name, after, _PAGE, expiring=expiring):
            for entry in map(Entry._make, page):
                after, state = entry.id, decode(entry.state)
                if not statuses or state.status in statuses:
                    yield report_of(after, state)

    async def resume(self, id: str, *, done: Iterable[str] = ()) -> bool:
        """Let a saga that is stuck try again what it could not compensate, and return True.

        Return False if it is under way. Raises LookupError if there is none, and `SagaError` if it is over.

        ``done`` names the steps that somebody has taken back by hand: they count as compensated.
        """
        _check_id(id)
        if isinstance(done, str | bytes) or not isinstance(done, Iterable):
            raise TypeError(f"done: must be names of steps in a list, not {type(done).__name__}")
        by_hand = [*done]
        while (found := await self._load(id)) is not None and found[1].status == "stuck":
            if await self._resume(id, *found, by_hand):
                self.wake()
                return True
        if found is None:
            raise LookupError(f"saga {self.name}: there is none with the id {id!r}")
        if found[1].status in OVER:
            raise SagaError(f"saga {self.name}: {id} is {found[1].status}: there is nothing to resume")
        return False

    async def _resume(self, id: str, entry: Entry, state: State, by_hand: list[str]) -> bool:
        acts = {name: act for name, act in state.acts.items() if name.endswith(UNDO) and act.status == "failed"}
        failed = {name.removesuffix(UNDO): act for name, act in acts.items()}
        for name in by_hand:
            if name not in failed:
                raise ValueError(f"done: must name steps whose compensation failed, {[*failed]}, not {name!r}")
        for name, act in failed.items():
            state.acts[name + UNDO] = Act(
                began=self.driver.now(), seen=act.seen, status="done" if name in by_hand else "pausing"
            )
        state.status, state.handed_over, state.ended = "compensating", False, 0.0
        return await self.driver.journal.save(
            self.name, id, encode(state), version=entry.version, due=0.0, lease="", expires=None
        )

    async def _load(self, id: str) -> tuple[Entry, State] | None:
        found = await self.driver.journal.load(self.name, id)
        return None if found is None else (Entry(*found), decode(found[4]))


def _check_id(id: object) -> None:
    check_kind("id", id, str, "a str, the id of a saga", "id_of(event) tells it")
