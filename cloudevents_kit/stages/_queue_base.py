"""What the two kinds of queue share: their settings, and a number of workers that can change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from cloudevents_kit._arguments import check_choice, check_count, check_not_negative
from cloudevents_kit.stages._calls import check_plain
from cloudevents_kit.stages._holding import Holding
from cloudevents_kit.stages._keys import Key


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What both kinds have."""

    workers: int
    capacity: int
    on_full: str
    key: Key | None
    grace: float
    retry_after: float

    def __post_init__(self) -> None:
        """Raise TypeError or ValueError for what makes no sense."""
        check_count("workers", self.workers)
        check_count("capacity", self.capacity)
        check_choice("on_full", self.on_full, ("wait", "refuse"))
        if self.key is not None:
            check_plain("key", self.key)
        check_not_negative("grace", self.grace)
        check_not_negative("retry_after", self.retry_after)


class Queue(Holding):
    """Use `queue`."""

    kind = "queue"

    def __init__(self, settings: Settings, name: str | None) -> None:
        super().__init__(name)
        self._settings = settings
        self._workers = settings.workers

    @property
    def parameters(self) -> Mapping[str, object]:
        found = self._settings
        return {
            "workers": self._workers,
            "capacity": found.capacity,
            "on_full": found.on_full,
            "ordered": found.key is not None,
            "grace": found.grace,
            "retry_after": found.retry_after,
        }

    @property
    def status(self) -> Mapping[str, object]:
        return {**super().status, "workers": self._workers, "running": self.running, "waiting": self.waiting}

    @property
    @abstractmethod
    def running(self) -> int:
        """The number of events that workers have."""
        ...

    @property
    @abstractmethod
    def waiting(self) -> int:
        """The number of callers whose events wait here, for a worker or for room."""
        ...

    def resize(self, workers: int) -> None:
        """Let as many events run at once from now on; what runs already ends as it would have."""
        check_count("workers", workers)
        self._workers = workers
        self.resized()

    @abstractmethod
    def resized(self) -> None:
        """Begin what the new number allows."""
        ...
