"""What `open_store` returns, whatever is behind it. Knows no database."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, NoReturn, Self

from cloudevents_kit._errors import StoreError

if TYPE_CHECKING:
    from cloudevents_kit.dead_letter import DeadLetterStore
    from cloudevents_kit.outbox import OutboxStore
    from cloudevents_kit.saga import Journal
    from cloudevents_kit.stages import DedupeStore, QueueStore, WindowStore


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

    def _lacks(self, what: str) -> NoReturn:
        raise StoreError(f"{what}: {self.kind} does not keep it (SQLite and PostgreSQL do)")


class Store(Scope, AbstractAsyncContextManager["Store"]):
    """A database with the stores that it keeps. Use `open_store`."""

    async def __aenter__(self) -> Self:
        """Open it. Raises StoreError, which says what to do."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what is being written, and close it."""

    def scoped(self, name: str) -> Scope:
        """Return stores that keep apart from others what they keep under ``name``, in the same database.

        The scope is open while this store is.
        """
        raise NotImplementedError(name)
