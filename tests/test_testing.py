"""The suites for stores of others: what is documented works, and a store that is broken fails."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cloudevents_kit.testing
from cloudevents_kit.testing._ticks import Timed
from tests.support.pages import ROOT, Page
from tests.support.programs import run
from tests.support.virtual import LoopClock, virtual

PAGE = Page(ROOT / "docs" / "testing.md")

#: A store per suite that forgets one thing it has to care for.
BROKEN = """
import pytest

from cloudevents_kit import testing
from cloudevents_kit.stores.memory import MemoryDedupeStore, MemoryQueueStore, MemoryWindowStore
from cloudevents_kit.stores.memory_cache import MemoryCache
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from cloudevents_kit.stores.memory_journal import MemoryJournal
from cloudevents_kit.stores.memory_outbox import MemoryOutboxStore
from tests.support.clock import ManualClock

class Moved:
    @pytest.fixture
    def store(self):
        self.clock = ManualClock()
        return self.kind(clock=self.clock)

    journal = store

    async def passes(self, ticks):
        await self.clock.advance(ticks)

class GivesToAnybody(MemoryDedupeStore):
    async def claim(self, key, token, lease, /):
        found = await super().claim(key, token, lease)
        return found if isinstance(found, bytes) else None

class HasNoLimit(MemoryQueueStore):
    async def put(self, event, *, key, capacity):
        return await super().put(event, key=key, capacity=10**9)

class CountsTwice(MemoryWindowStore):
    added = 0

    async def add(self, start, key, event, *given, **more):
        self.added += 1
        return await super().add(start, key, (event[0], f"{event[1]}.{self.added}"), *given, **more)

class AsksForNoToken(MemoryDeadLetterStore):
    async def settle(self, id, token, letter):
        leased = await self.lease(id, 1)
        return await super().settle(id, token if leased is None else leased[0], letter)

class SavesWhatIsOld(MemoryJournal):
    async def save(self, saga, id, state, /, *, version, **given):
        found = await self.load(saga, id)
        return await super().save(saga, id, state, version=0 if found is None else found[1], **given)

class KnowsNoOrder(MemoryOutboxStore):
    async def add(self, event, *, key, **given):
        return await super().add(event, key=None, **given)

class ExpectsNothing(MemoryEventLogStore):
    async def append(self, stream, events, expected, inline, /):
        return await super().append(stream, events, None, inline)

class KeepsForGood(MemoryCache):
    async def set(self, key, value, ttl, /):
        await super().set(key, value, 10**9)

class TestDedupe(Moved, testing.DedupeStoreConformance):
    kind = GivesToAnybody

class TestQueue(Moved, testing.QueueStoreConformance):
    kind = HasNoLimit

class TestWindows(testing.WindowStoreConformance):
    @pytest.fixture
    def make(self):
        return CountsTwice

class TestDeadLetters(Moved, testing.DeadLetterStoreConformance):
    kind = AsksForNoToken

class TestJournal(Moved, testing.JournalConformance):
    kind = SavesWhatIsOld

class TestOutbox(Moved, testing.OutboxStoreConformance):
    kind = KnowsNoOrder

class TestEventLog(Moved, testing.EventLogStoreConformance):
    kind = ExpectsNothing

class TestCache(Moved, testing.SharedCacheConformance):
    kind = KeepsForGood
"""
NOTICED = {
    ("TestDedupe", "test_a_free_key_is_claimed_and_then_held"),
    ("TestQueue", "test_it_takes_no_more_than_its_capacity_and_an_event_only_once"),
    ("TestWindows", "test_an_event_counts_once_in_its_window"),
    ("TestDeadLetters", "test_a_failure_that_comes_again_makes_the_lease_void"),
    ("TestJournal", "test_a_save_needs_the_version_that_is_there"),
    ("TestOutbox", "test_of_one_key_only_the_first_is_due_until_it_is_gone"),
    ("TestEventLog", "test_another_version_than_expected_is_a_conflict_and_nothing_is_appended"),
    ("TestCache", "test_a_value_is_gone_after_its_ttl_and_no_earlier"),
}


async def run_tests(folder: Path, text: str) -> tuple[int | None, str]:
    """Run a file of tests as a user does who has configured as little as can be."""
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    (folder / "test_mine.py").write_text(text, "utf-8")
    return await run("-m", "pytest", "-p", "no:cacheprovider", "-rfE", "--no-cov", str(folder))


async def test_the_store_of_the_page_passes_as_it_stands_there(tmp_path: Path) -> None:
    blocks = [block.body for block in PAGE.blocks if block.language == "python"]
    code, printed = await run_tests(tmp_path, "\n\n".join(blocks))
    assert code == 0, printed
    assert re.search(r"= 2\d passed in ", printed), printed


async def test_a_broken_store_fails_and_the_test_says_what_it_compared(tmp_path: Path) -> None:
    code, printed = await run_tests(tmp_path, BROKEN)
    assert code == 1, printed
    failed = set(re.findall(r"^FAILED .*::(Test\w+)::(test_\w+)", printed, re.MULTILINE))
    assert failed >= NOTICED, printed
    assert not re.search("^ERROR", printed, re.MULTILINE), printed
    assert re.search(r"^E +AssertionError: assert 'counted' == 'repeated'$", printed, re.MULTILINE), printed
    assert re.search(r"[1-9]\d+ failed, [1-9]\d+ passed", printed), printed


def test_every_suite_has_a_store_that_fails_it() -> None:
    assert sorted(re.findall(r"testing\.(\w+)\)", BROKEN)) == sorted(cloudevents_kit.testing.__all__)
    assert len(NOTICED) == len(cloudevents_kit.testing.__all__)


@virtual
async def test_time_passes_for_real_unless_a_suite_moves_it(clock: LoopClock) -> None:
    suite = Timed()
    suite.tick = 0.1
    await suite.passes(3)
    assert clock.monotonic() == pytest.approx(0.3)


def test_a_suite_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'cloudevents_kit.testing' has no attribute 'Conformance'"):
        cloudevents_kit.testing.Conformance  # noqa: B018


def test_the_table_of_suites_has_all_of_them() -> None:
    told = [row[0].strip("`") for row in PAGE.table("suite")]
    assert sorted(told) == sorted(cloudevents_kit.testing.__all__)


@pytest.mark.parametrize("name", [one.name for one in pkgutil.iter_modules(cloudevents_kit.testing.__path__)])
def test_every_module_with_an_assert_explains_itself(name: str) -> None:
    module = importlib.import_module(f"cloudevents_kit.testing.{name}")
    text = Path(str(module.__file__)).read_text("utf-8")
    assert ("@pytest_ar" in vars(module)) == ("assert " in text)


@pytest.mark.parametrize("missing", ["pytest", "pytest_asyncio"])
async def test_without_the_extra_the_error_names_it(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from cloudevents_kit.testing import QueueStoreConformance"
    code, printed = await run("-c", program)
    assert code == 1
    assert f'ImportError: {missing} is not installed: pip install "cloudevents-kit[testing]"' in printed
