"""The journal of sagas in an SQL database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from cloudevents_kit.saga import Context, Journal, Saga, Step, Wait
from cloudevents_kit.stores.sql import SqlStore, _journal
from cloudevents_kit.testing import JournalConformance
from cloudevents_kit.testing._sagas import lease, save
from tests.support.events import new
from tests.support.saga import over
from tests.support.sql import age


class TestConformance(JournalConformance):
    url = ""

    @pytest.fixture
    def journal(self, opened: SqlStore, url: str) -> Journal:
        self.url = url
        return opened.sagas

    async def passes(self, ticks: float) -> None:
        for column in ("due", "expires"):
            await age(self.url, "cek_sagas", column, ticks * self.tick)


async def test_scopes_keep_apart(opened: SqlStore) -> None:
    here, there = opened.sagas, opened.scoped("there").sagas
    assert await save(here)
    assert await lease(there) is None
    assert await there.load("order", "1") is None
    assert await save(there, expires=-1.0)
    assert await here.forget("order") == 0
    assert await there.forget("order") == 1


async def test_what_is_done_again_after_a_commit_whose_answer_was_lost_comes_to_the_same_end(opened: SqlStore) -> None:
    journal: Any = opened.sagas
    values = {"state": b"{}", "due": sa.literal(0), "lease": "", "expires": None}
    for version in (0, 1):
        item = _journal._Save(("order", "1"), version, values)
        assert [await journal._save(item) for _ in range(2)] == [True, True]
        assert (await journal.load("order", "1"))[1] == version + 1
    assert not await journal._save(_journal._Save(("order", "1"), 1, values))
    wanted = _journal._Lease("order", 1000.0, "token")
    for _ in range(2):
        found = await journal._lease(wanted)
        assert found == ("1", 3, found[2], "token", b"{}")
        assert 900 < found[2] <= 1000
    nothing = _journal._Lease("order", 1000.0, "other")
    assert [await journal._lease(nothing) for _ in range(2)] == [None, None]


async def test_two_programs_drive_each_saga_once(opened: SqlStore) -> None:
    """K-D8.3. On a real database, with copies of each first event at once."""
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


async def test_of_many_events_for_a_saga_at_two_programs_none_is_lost_while_it_runs(opened: SqlStore) -> None:
    """K-D8.3. A version conflict is retried."""

    async def gather(step: Context) -> list[str]:
        if len(step.events) < 10:
            raise Wait(60)
        return sorted(event.id for event in step.events)

    given: dict[str, Any] = {"journal": opened.sagas, "key": lambda _: "7", "poll": 0.1}
    async with (
        Saga("order", [Step("a", gather)], **given) as here,
        Saga("order", [Step("a", gather)], **given) as there,
    ):
        await here(new(id="first"))
        events = [new(id=f"{number:02}") for number in range(10)]
        await asyncio.gather(*(saga.deliver(event) for event in events for saga in (here, there)))
        report = await over(here, new(id="first"))
    assert report.results == {"a": [event.id for event in events]}
    assert here.counts["conflicts"] + there.counts["conflicts"] > 0
