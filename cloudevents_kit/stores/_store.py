"""What `open_store` returns, whatever is behind it. Knows no database."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NoReturn, Self

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._errors import StoreError

if TYPE_CHECKING:
    from cloudevents_kit.dead_letter import DeadLetterStore
    from cloudevents_kit.event_log import EventLogStore
    from cloudevents_kit.outbox import OutboxStore
    from cloudevents_kit.saga import Journal
    from cloudevents_kit.stages import DedupeStore, QueueStore, SharedCache, WindowStore


class Scope:
    """One store of each kind, for one user each: two stages of a kind that share one would take each other's events.

    What a kind of database cannot keep raises StoreError when it is asked for.
    """

    kind = "this"
    """What is behind it, in a word or two."""

    @property
    def deduplication(self) -> DedupeStore:
        """For `stages.deduplicate`."""
        self._lacks("deduplication")

    @property
    def windows(self) -> WindowStore:
        """For `stages.aggregate`."""
        self._lacks("windows")

    @property
    def cache(self) -> SharedCache:
        """For `stages.Cached`; those of different names may share it."""
        self._lacks("cache", "Redis and, for tests, the memory do")

    @property
    def queue(self) -> QueueStore:
        """For `stages.queue`."""
        self._lacks("queue")

    @property
    def dead_letters(self) -> DeadLetterStore:
        """For `dead_letter`; its users may share it if each names its destination."""
        self._lacks("dead letters")

    @property
    def sagas(self) -> Journal:
        """For `saga`; sagas of different names may share it."""
        self._lacks("sagas")

    @property
    def outbox(self) -> OutboxStore:
        """For `outbox`; any number of processes may relay it."""
        self._lacks("outbox")

    @property
    def event_log(self) -> EventLogStore:
        """For `event_log`; any number of processes may append and read."""
        self._lacks("event log")

    def _lacks(self, what: str, others: str = "SQLite and PostgreSQL do") -> NoReturn:
        raise StoreError(f"{what}: {self.kind} does not keep it ({others})")


class Store(Scope, AbstractAsyncContextManager["Store"]):
    """A database with the stores that it keeps. Use `open_store`."""

    async def __aenter__(self) -> Self:
        """Open it. Raises StoreError, which says what to do."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what is being written, and close it."""

    def scoped(self, name: str) -> Scope:
        """Return stores that keep apart from others what they keep under ``name``, in the same database.

        The scope is open while this store is. Raises TypeError or ValueError for what is no name.
        """
        raise NotImplementedError(name)


def check_scope(name: str) -> None:
    """Raise TypeError or ValueError unless ``name`` is one for `Store.scoped`."""
    check_kind("name", name, str, "a str")
    if not name:
        raise ValueError("name: must not be empty (what has no scope is in the store itself)")
