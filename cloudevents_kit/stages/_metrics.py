"""Counters and durations of a chain, per stage and for whole events, in memory that does not grow with them."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._event import Event
from cloudevents_kit.stages._adapt import free_name
from cloudevents_kit.stages._stage import Record, Stage

#: Bounds of the histogram, in seconds.
BOUNDS = (0.0, *(float(f"{step}e{power}") for power in range(-6, 2) for step in (1, 2, 5)), float("inf"))
_GATHERED = 500


class Metrics:
    """Counts what `observe` tells it; ask for a `snapshot`. For chains that run in one event loop.

    Args:
        types: event types to count by; all others are counted as ``other``, so that peers cannot choose the labels.
        clock: tells since when this counts.
    """

    def __init__(self, *, types: Iterable[str] = (), clock: Clock | None = None) -> None:
        """Count from zero. Raises TypeError for ``types`` that are not several texts."""
        wanted = "a tuple of event types"
        check_kind("types", types, (tuple, list, set, frozenset), wanted)
        self._types: dict[str, Counter[str]] = {}
        for event_type in types:
            check_kind("types", event_type, str, wanted)
            self._types[event_type] = Counter()
        self._others: Counter[str] = Counter()
        self._since = (clock or SystemClock()).now().isoformat()
        self._whole = _Durations()
        self._stages: dict[str, tuple[Stage, _Durations]] = {}

    def recorder(self, stage: Stage | None) -> Record:
        """Return what counts the events that leave ``stage``, or the whole chain; see `Recorder`."""
        if stage is not None:
            durations = _Durations()
            self._stages[free_name(stage.name, self._stages)] = (stage, durations)
            return durations.recorder()
        record = self._whole.recorder()
        if not self._types:
            return record

        def record_typed(event: Event, ending: str, seconds: float, /) -> None:
            self._types.get(event.type, self._others)[ending] += 1
            record(event, ending, seconds)

        return record_typed

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON. Durations are in seconds; percentiles are estimated from a histogram."""
        types: Mapping[str, Counter[str]] = self._types | {"other": self._others} if self._types else {}
        whole = self._whole.summary()
        return {
            "since": self._since,
            "events": whole["events"],
            "outcomes": whole["endings"],
            "types": {name: dict(endings) for name, endings in types.items()},
            "seconds": whole["seconds"],
            "stages": {
                name: {"kind": stage.kind, **durations.summary(), "counts": dict(stage.counts)}
                for name, (stage, durations) in self._stages.items()
            },
        }


class _Durations:
    """How many ended how, and a histogram of how long they took.

    What comes in is gathered in a list and counted some hundred at a time, which takes half as long.
    """

    def __init__(self) -> None:
        self._endings: Counter[str] = Counter()
        self._buckets = [0] * (len(BOUNDS) - 1)
        self._total = 0.0
        self._longest = 0.0
        self._gathered: defaultdict[str, list[float]] = defaultdict(list)

    def recorder(self) -> Record:
        by_ending, most, count = self._gathered, _GATHERED, self._count

        def record(_: Event, ending: str, seconds: float, /) -> None:
            gathered = by_ending[ending]
            gathered.append(seconds)
            if len(gathered) >= most:
                count(ending, gathered)

        return record

    def _count(self, ending: str, gathered: list[float]) -> None:
        gathered.sort()
        self._endings[ending] += len(gathered)
        self._total += sum(gathered)
        self._longest = max(self._longest, gathered[-1])
        below = 0
        for number, bound in enumerate(BOUNDS[1:]):
            upto = bisect_right(gathered, bound)
            self._buckets[number] += upto - below
            below = upto
        gathered.clear()

    def summary(self) -> dict[str, Any]:
        """Return the number of events, their endings and durations."""
        for ending, gathered in self._gathered.items():
            if gathered:
                self._count(ending, gathered)
        events = sum(self._buckets)
        shares = {f"p{percent}": self._percentile(percent / 100 * events) for percent in (50, 95, 99)}
        return {
            "events": events,
            "endings": dict(self._endings),
            "seconds": {"total": self._total, "longest": self._longest, **shares},
        }

    def _percentile(self, rank: float) -> float:
        """Return the duration that ``rank`` events did not exceed: interpolated in its bucket."""
        below = 0
        for (low, high), inside in zip(pairwise(BOUNDS), self._buckets, strict=True):
            if inside and below + inside >= rank:
                return low + (min(high, self._longest) - low) * (rank - below) / inside
            below += inside
        return 0.0
