"""The journal of sagas in an SQL database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloudevents_kit.saga import Journal, Saga, Step
from cloudevents_kit.stores.sql import SqlStore, _journal
from tests.support.events import new
from tests.support.journal import JournalConformance, lease, save


class TestConformance(JournalConformance):
    @pytest.fixture
    def journal(self, opened: SqlStore) -> Journal:
        return opened.sagas


async def test_scopes_keep_apart(opened: SqlStore) -> None:
    here, there = opened.sagas, opened.scoped("there").sagas
    assert await save(here)
    assert await lease(there) is None
    assert await there.load("order", "1") is None
    assert await save(there, expires=5.0)
    assert await here.forget("order", now=1e12) == 0
    assert await there.forget("order", now=1e12) == 1


async def test_what_is_done_again_after_a_commit_whose_answer_was_lost_comes_to_the_same_end(opened: SqlStore) -> None:
    journal: Any = opened.sagas
    values = {"state": b"{}", "due": 10.0, "lease": "", "expires": None}
    for version in (0, 1):
        item = _journal._Save(("order", "1"), version, values)
        assert [await journal._save(item) for _ in range(2)] == [True, True]
        assert (await journal.load("order", "1"))[1] == version + 1
    assert not await journal._save(_journal._Save(("order", "1"), 1, values))
    wanted = _journal._Lease("order", 10.0, 20.0, "token")
    first, again = [await journal._lease(wanted) for _ in range(2)]
    assert first == again == ("1", 3, 20.0, "token", b"{}")
    nothing = _journal._Lease("order", 10.0, 20.0, "other")
    assert [await journal._lease(nothing) for _ in range(2)] == [None, None]


async def test_two_programs_drive_each_saga_once(opened: SqlStore) -> None:
    """K-D8: on a real database, with two events of each saga at once."""
    done: list[str] = []

    async def run(step: Any) -> str:
        done.append(step.key)
        return str(step.key)

    steps = [Step(name, run) for name in "abc"]
    events = [new(id=str(number)) for number in range(20)]
    async with (
        Saga("order", steps, journal=opened.sagas, wait=True, poll=0.1) as here,
        Saga("order", steps, journal=opened.sagas, wait=True, poll=0.1) as there,
    ):
        await asyncio.gather(*(saga(event) for event in events for saga in (here, there, here)))
    assert len(done) == len({*done}) == 60
    assert here.counts["completed"] + there.counts["completed"] == 20
    assert here.counts["overtaken"] + there.counts["overtaken"] == 0
