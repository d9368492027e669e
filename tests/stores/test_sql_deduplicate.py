from __future__ import annotations

import asyncio

import pytest

from cloudevents_kit.stages import DedupeStore
from cloudevents_kit.stores.sql import SqlStore, _deduplicate
from cloudevents_kit.testing import DedupeStoreConformance
from tests.support.sql import age, execute


class TestConformance(DedupeStoreConformance):
    url: str

    @pytest.fixture
    def store(self, opened: SqlStore, url: str) -> DedupeStore:
        type(self).url = url
        return opened.deduplication

    async def passes(self, ticks: float) -> None:
        await age(self.url, "cek_keys", "expires", ticks * self.tick)


async def test_copies_in_one_transaction_are_told_as_if_they_had_come_one_by_one(opened: SqlStore) -> None:
    keys = opened.deduplication
    same = await asyncio.gather(*(keys.claim("same", "a", 10) for _ in range(3)))
    assert same == [None, None, None]
    await keys.claim("done", "a", 10)
    found = await asyncio.gather(
        keys.commit("done", "a", b"x", 10), keys.commit("done", "a", b"y", 10), keys.claim("done", "b", 10)
    )
    assert found == [True, False, b"x"]


async def test_what_has_run_out_is_deleted_in_the_end(
    opened: SqlStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_deduplicate, "_SWEEP_AFTER", 5)
    keys = opened.deduplication
    for number in range(4):
        await keys.commit(f"old {number}", "a", b"", 10)
    await age(url, "cek_keys", "expires", 20)
    await keys.commit("new", "a", b"", 10)
    assert await execute(url, "SELECT key FROM cek_keys") == [("new",)]
