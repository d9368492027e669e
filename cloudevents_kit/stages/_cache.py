"""Lookups with a memory: what is asked for often is loaded once, from a nearer place each time.

customers = Cached(load_customer)                   # async (str) -> Customer | None

async def add_customer(event: Event) -> Event | None:
    customer = await customers(str(event.subject))
    return event.evolve(tier=customer.tier) if customer else None

stages.enrich(add_customer, mark="enriched")
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from cloudevents_kit._arguments import check_callable, check_count, check_kind, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit.stages._seldom import Seldom
from cloudevents_kit.stages._stage import name_of_function

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SharedCache(Protocol):
    """The second tier of `Cached`, which several processes share."""

    async def get(self, key: str, /) -> bytes | None:
        """Return the value of ``key``, or None if there is none or its time is over."""
        ...

    async def set(self, key: str, value: bytes, ttl: float, /) -> None:
        """Keep ``value`` for ``ttl`` seconds."""
        ...


class _Load(Generic[V]):
    """A value on its way, and who waits for it."""

    __slots__ = ("task", "waiters")

    def __init__(self, task: asyncio.Task[V | None]) -> None:
        self.task = task
        self.waiters: set[asyncio.Future[V | None]] = set()


class Cached(Generic[K, V]):
    """``load``, asked once for what many want: keeps values, shares loads that run, and is bounded.

    Any number of callers for one key share one load. One that is cancelled leaves the others theirs; when nobody is
    left, the load is cancelled too. An error goes to everybody who waits, and is not kept.
    """

    def __init__(
        self,
        load: Callable[[K], Awaitable[V | None]],
        *,
        ttl: float = 300.0,
        negative_ttl: float = 30.0,
        max_entries: int = 10_000,
        load_timeout: float = 10.0,
        shared: SharedCache | None = None,
        shared_ttl: float = 900.0,
        shared_timeout: float = 1.0,
        kind: Any = Any,
        clock: Clock | None = None,
        name: str | None = None,
    ) -> None:
        """Keep what ``load(key)`` returns.

        Args:
            load: an async function that finds the value of a key; None: there is none.
            ttl: seconds for which a value is kept here.
            negative_ttl: seconds for which it is kept that there is none.
            max_entries: how many keys are kept here; beyond that, the one not used for the longest time is forgotten.
            load_timeout: seconds after which a load has failed with TimeoutError.
            shared: a second tier for several processes. Values go there as JSON, and are handed out as they come back
                from it, at the first time too. If it fails, values are loaded as if it was empty.
            shared_ttl: seconds for which a value is kept there. It may be older by ``ttl`` when it is last used.
            shared_timeout: seconds after which a call of the shared tier has failed.
            kind: the type that JSON from the shared tier is decoded into, by default dicts, lists and plain values.
            clock: tells when entries expire.
            name: for people and metrics, and the prefix of the keys in the shared tier. By default that of ``load``.
        """
        check_callable("load", load)
        for argument, seconds in (("ttl", ttl), ("negative_ttl", negative_ttl), ("shared_ttl", shared_ttl)):
            check_positive(argument, seconds)
        for argument, seconds in (("load_timeout", load_timeout), ("shared_timeout", shared_timeout)):
            check_positive(argument, seconds)
        if name is not None:
            check_kind("name", name, str, "a str, short, for people and metrics")
        if shared is not None:
            check_methods("shared", shared, "a SharedCache", "get", "set")
        clock = clock or SystemClock()
        self.name = name or name_of_function(load, "cached")
        self._hits = 0  # apart, as counting in a Counter takes longer than the rest of a hit
        self._counts: Counter[str] = Counter()
        self._load = load
        self._ttl, self._negative_ttl, self._shared_ttl = ttl, negative_ttl, shared_ttl
        self._max_entries = check_count("max_entries", max_entries)
        self._load_timeout, self._shared_timeout = load_timeout, shared_timeout
        self._shared = shared
        self._decode: Callable[[bytes], V | None] = msgspec.json.Decoder(kind if kind is Any else kind | None).decode
        self._now = clock.monotonic
        self._trouble = Seldom(clock)
        self._kept: OrderedDict[Hashable, tuple[float, V | None]] = OrderedDict()  # when it expires; last used, last
        self._loading: dict[Hashable, _Load[V]] = {}
        self._tasks: set[asyncio.Task[V | None]] = set()  # those that nobody waits for any more, until they end

    @property
    def size(self) -> int:
        """The number of keys kept here, expired ones included."""
        return len(self._kept)

    @property
    def counts(self) -> Counter[str]:
        """A copy of what was counted, by name.

        ``hits`` and ``misses`` here; of the misses ``joined`` (shared a load that ran) and ``shared_hits``; ``loads``
        and ``errors``, ``shared_errors``, ``evicted``.
        """
        return self._counts + Counter(hits=self._hits)

    @property
    def parameters(self) -> Mapping[str, object]:
        """The settings: plain values only."""
        return {
            "ttl": self._ttl,
            "negative_ttl": self._negative_ttl,
            "max_entries": self._max_entries,
            "load_timeout": self._load_timeout,
            "shared": None if self._shared is None else type(self._shared).__name__,
            "shared_ttl": self._shared_ttl,
        }

    async def __call__(self, key: K) -> V | None:
        """Return the value of ``key``, or None if there is none. Raises what ``load`` raises.

        1, 1.0 and True are three keys.
        """
        place = key if type(key) is str else _place(key)
        found = self._kept.get(place)
        if found is not None and found[0] > self._now():
            self._hits += 1
            self._kept.move_to_end(place)
            return found[1]
        self._counts["misses"] += 1
        return await self._wait(key, place)

    def get(self, key: K, default: Any = None) -> V | Any:
        """Return the value of ``key`` if it is here, or ``default``; nothing is loaded, and no miss is counted."""
        place = _place(key)
        found = self._kept.get(place)
        if found is None or found[0] <= self._now():
            return default
        self._hits += 1
        self._kept.move_to_end(place)
        return found[1]

    def forget(self, key: K) -> None:
        """Drop the value of ``key`` here, also one that is on its way; the shared tier keeps its own."""
        place = _place(key)
        self._kept.pop(place, None)
        self._loading.pop(place, None)

    async def _wait(self, key: K, place: Hashable) -> V | None:
        """Join the load that runs for ``key``, or start one."""
        loop = asyncio.get_running_loop()
        load = self._loading.get(place)
        if load is None or load.task.get_loop() is not loop:
            load = self._loading[place] = self._start(key, place, loop)
        else:
            self._counts["joined"] += 1
        waiter: asyncio.Future[V | None] = loop.create_future()
        load.waiters.add(waiter)
        try:
            return await waiter
        finally:
            load.waiters.discard(waiter)
            if not load.waiters and not load.task.done():
                self._end(place, load)
                load.task.cancel()
                self._tasks.add(load.task)
                load.task.add_done_callback(self._tasks.discard)

    def _start(self, key: K, place: Hashable, loop: asyncio.AbstractEventLoop) -> _Load[V]:
        load: _Load[V] = _Load(loop.create_task(self._find(key)))

        def done(task: asyncio.Task[V | None]) -> None:
            error = RuntimeError(f"{self.name}: the load was cancelled") if task.cancelled() else task.exception()
            if self._end(place, load) and error is None:
                self._keep(place, task.result())
            if error is not None and load.waiters:
                self._counts["errors"] += 1
            for waiter in load.waiters:
                if waiter.done():
                    continue
                if error is None:
                    waiter.set_result(task.result())
                else:
                    waiter.set_exception(error)

        load.task.add_done_callback(done)
        return load

    def _end(self, place: Hashable, load: _Load[V]) -> bool:
        """Let the next caller start anew; tell whether ``load`` was still the one for its key."""
        current = self._loading.get(place) is load
        if current:
            del self._loading[place]
        return current

    def _keep(self, place: Hashable, value: V | None) -> None:
        ttl = self._negative_ttl if value is None else self._ttl
        self._kept[place] = (self._now() + ttl, value)
        self._kept.move_to_end(place)
        if len(self._kept) > self._max_entries:
            self._kept.popitem(last=False)
            self._counts["evicted"] += 1

    # What runs once for all who wait.

    async def _find(self, key: K) -> V | None:
        return await self._call(key) if self._shared is None else await self._find_shared(self._shared, key)

    async def _call(self, key: K) -> V | None:
        self._counts["loads"] += 1
        async with asyncio.timeout(self._load_timeout):
            return await self._load(key)

    async def _find_shared(self, shared: SharedCache, key: K) -> V | None:
        text = f"{self.name}:{msgspec.json.encode(key).decode()}"
        try:
            async with asyncio.timeout(self._shared_timeout):
                found = await shared.get(text)
            if found is not None:
                value = self._decode(found)
                self._counts["shared_hits"] += 1
                return value
        except Exception as error:  # noqa: BLE001 - whatever it raises, the value can be loaded
            self._blame(error)
        encoded = msgspec.json.encode(await self._call(key))
        value = self._decode(encoded)
        ttl = min(self._negative_ttl, self._shared_ttl) if value is None else self._shared_ttl
        try:
            async with asyncio.timeout(self._shared_timeout):
                await shared.set(text, encoded, ttl)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the value is there
            self._blame(error)
        return value

    def _blame(self, error: Exception) -> None:
        self._counts["shared_errors"] += 1
        self._trouble.warn(f"{self.name}: the shared cache failed", error)


def _place(key: Hashable) -> Hashable:
    """Return what stands for ``key`` here: keys are the same only if their types are, too."""
    kind = type(key)
    if kind is str:
        return key
    return (kind, *map(_place, key)) if kind is tuple else (kind, key)  # type: ignore[call-overload]
