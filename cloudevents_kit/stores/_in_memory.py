"""The store at ``memory:``: what stages use by default, forgotten when the process ends."""

from __future__ import annotations

from cloudevents_kit._errors import StoreError
from cloudevents_kit.stores._store import Scope, Store, check_scope
from cloudevents_kit.stores.memory import MemoryDedupeStore, MemoryQueueStore, MemoryWindowStore
from cloudevents_kit.stores.memory_cache import MemoryCache
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore
from cloudevents_kit.stores.memory_event_log import MemoryEventLogStore
from cloudevents_kit.stores.memory_journal import MemoryJournal
from cloudevents_kit.stores.memory_outbox import MemoryOutboxStore


class _MemoryScope(Scope):
    kind = "the memory"

    def __init__(self) -> None:
        self._deduplication = MemoryDedupeStore()
        self._windows = MemoryWindowStore()
        self._cache = MemoryCache()
        self._queue = MemoryQueueStore()
        self._dead_letters = MemoryDeadLetterStore()
        self._sagas = MemoryJournal()
        self._outbox = MemoryOutboxStore()
        self._event_log = MemoryEventLogStore()

    @property
    def deduplication(self) -> MemoryDedupeStore:
        return self._deduplication

    @property
    def windows(self) -> MemoryWindowStore:
        return self._windows

    @property
    def cache(self) -> MemoryCache:
        return self._cache

    @property
    def queue(self) -> MemoryQueueStore:
        return self._queue

    @property
    def dead_letters(self) -> MemoryDeadLetterStore:
        return self._dead_letters

    @property
    def sagas(self) -> MemoryJournal:
        return self._sagas

    @property
    def outbox(self) -> MemoryOutboxStore:
        return self._outbox

    @property
    def event_log(self) -> MemoryEventLogStore:
        return self._event_log


class MemoryStore(_MemoryScope, Store):
    """Keeps everything in this process."""

    def __init__(self) -> None:
        """Begin empty."""
        super().__init__()
        self._scopes: dict[str, Scope] = {}

    def scoped(self, name: str) -> Scope:
        """See `Store.scoped`."""
        check_scope(name)
        if name not in self._scopes:
            self._scopes[name] = _MemoryScope()
        return self._scopes[name]


def make(url: str, *, patience: float) -> MemoryStore:  # noqa: ARG001 - there is nothing to wait for
    """Return the store for ``url``."""
    if url.lower() != "memory:":
        raise StoreError("url: must be memory: and nothing more (there is no name to share it by)")
    return MemoryStore()
