"""The state of a stream: what its events come to, one after the other, and snapshots that save some of the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from cloudevents_kit._arguments import check_count, check_name
from cloudevents_kit._contract import log
from cloudevents_kit._errors import EventError, StoreError
from cloudevents_kit._event import Event
from cloudevents_kit._recorded import SnapshotStore
from cloudevents_kit._typed import check_type, convert, is_model

S = TypeVar("S")
_LONGEST_NAME = 200

#: The state after an event, from the state before it.
Step = Callable[[S, Event], S]


class Folded(NamedTuple, Generic[S]):
    """What a stream comes to."""

    state: S
    version: int
    """The version of the stream; 0 if there is none. Append with ``expected=version``."""


class Snapshot(Generic[S]):
    """Says that states are kept, so that most events of a long stream need not be read again.

    They are a cache: without them, or if they cannot be read, the whole stream is folded.

    Args:
        name: what the state is of, if streams are folded to several things.
        kind: the type of the state: a dataclass, TypedDict, msgspec Struct, pydantic model, or a type made of those.
        schema: a number of your own: count it up when states are to be computed anew, because their type, the function
            or the upcasts have changed.
        every: events after which the next one is kept.
    """

    def __init__(self, name: str, kind: type[S], *, schema: int = 1, every: int = 100) -> None:
        """Check the settings. Raises TypeError or ValueError naming one."""
        self.name, self.kind = check_name("name", name, longest=_LONGEST_NAME), kind
        try:
            check_type(kind)
        except TypeError as error:
            raise TypeError(f"kind: must be a type that data can be read as ({error})") from error
        self.schema, self.every = check_count("schema", schema), check_count("every", every)

    async def load(self, store: SnapshotStore, stream: str) -> tuple[int, S] | None:
        """Return the latest state that was kept, and the version it is of."""
        found = await store.load(stream, self.name, self.schema)
        if found is None:
            return None
        try:
            return found[0], convert(found[1], self.kind, is_json=True)
        except EventError as error:
            log.warning("snapshot %s of stream %s cannot be used (count schema up): %s", self.name, stream, error)
            return None

    async def save(self, store: SnapshotStore, stream: str, version: int, state: S) -> None:
        """Keep ``state``. Raises TypeError if it cannot be written."""
        try:
            packed = msgspec.json.encode(state, enc_hook=_of_model)
        except TypeError as error:
            raise TypeError(f"snapshot: the state of {self.name} cannot be kept as JSON: {error}") from error
        try:
            await store.save(stream, self.name, self.schema, version, packed)
        except StoreError as error:
            log.warning("snapshot %s of stream %s could not be kept: %s", self.name, stream, error)


def _of_model(value: Any) -> msgspec.Raw:
    """Return the JSON of a model, which msgspec does not know."""
    if not is_model(type(value)):
        raise TypeError(f"it holds a {type(value).__name__}")
    return msgspec.Raw(value.model_dump_json().encode())
