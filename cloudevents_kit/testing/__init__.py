"""Test suites for stores of one's own: what every store of the kit passes, another one must pass, too.

    class TestMine(DedupeStoreConformance):
        tick = 0.1  # seconds; the tests wait in ticks

        @pytest.fixture
        def store(self) -> DedupeStore:
            return MyStore()

Needs pytest and pytest-asyncio, the extra ``testing``. Nothing else in the kit imports this.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from cloudevents_kit._extra import load

if TYPE_CHECKING:
    from cloudevents_kit.testing._cache import SharedCacheConformance
    from cloudevents_kit.testing._dead_letters import DeadLetterStoreConformance
    from cloudevents_kit.testing._deduplication import DedupeStoreConformance
    from cloudevents_kit.testing._event_log import EventLogStoreConformance
    from cloudevents_kit.testing._outbox import OutboxStoreConformance
    from cloudevents_kit.testing._queue import QueueStoreConformance
    from cloudevents_kit.testing._sagas import JournalConformance
    from cloudevents_kit.testing._windows import WindowStoreConformance

_HOMES = {
    "DeadLetterStoreConformance": "_dead_letters",
    "DedupeStoreConformance": "_deduplication",
    "EventLogStoreConformance": "_event_log",
    "JournalConformance": "_sagas",
    "OutboxStoreConformance": "_outbox",
    "QueueStoreConformance": "_queue",
    "SharedCacheConformance": "_cache",
    "WindowStoreConformance": "_windows",
}

__all__ = [
    "DeadLetterStoreConformance",
    "DedupeStoreConformance",
    "EventLogStoreConformance",
    "JournalConformance",
    "OutboxStoreConformance",
    "QueueStoreConformance",
    "SharedCacheConformance",
    "WindowStoreConformance",
]

if (_pytest := sys.modules.get("pytest")) is not None:  # it runs: an assert that fails is to show what it compared
    _pytest.register_assert_rewrite(*(f"{__name__}.{home}" for home in _HOMES.values()))


def __getattr__(name: str) -> Any:
    """Load a suite, with nothing that others need."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for module in ("pytest", "pytest_asyncio"):
        load(module, "testing")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
