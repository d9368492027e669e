"""What a chain does, to be read over HTTP: metrics, status, enrichment, filters and aggregates."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._errors import Refusal
from cloudevents_kit.stages._describe import describe, stages_of
from cloudevents_kit.stages._metrics import Metrics
from cloudevents_kit.stages._stage import Stage

_FILTERS = frozenset({"keep_if", "rule_filter"})
_Query = Mapping[str, str]


class Counting(Protocol):
    """What counts, such as `Cached`."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How often what happened."""
        ...


def endpoints(
    handler: object,
    *,
    metrics: Metrics | None = None,
    lookups: Mapping[str, Counting] | None = None,
    clock: Clock | None = None,
) -> Mapping[str, Callable[[_Query], object]]:
    """Return the ``endpoints`` of a receiver that show what the stages of ``handler`` do.

    ====================================  ==========================================================================
    ``/metrics/processor``                the snapshot of ``metrics``, without them the counts of every stage
    ``/processor/status``                 the stages as they are now, and what the chain is made of
    ``/processor/enrichment``             the counts of the ``enrich`` stages and of ``lookups``
    ``/processor/filters``                the counts of ``keep_if`` and ``rule_filter`` stages
    ``/processor/aggregation``            what an aggregate holds: ``?aggregator=NAME&key=KEY``
    ====================================  ==========================================================================

    Whoever can send events can read them: they tell names, numbers and keys, never an event.

    Args:
        handler: one with stages around it, as `cloudevents_kit.wrap` makes it.
        metrics: what `observe` was given.
        lookups: what enrich functions use, by name, such as `Cached` ones.
        clock: tells since when.
    """
    if metrics is not None:
        check_kind("metrics", metrics, Metrics, "a Metrics object")
    known = lookups or {}
    check_kind("lookups", known, Mapping, "a dict of lookups by name")
    since = (clock or SystemClock()).now().isoformat()

    def now() -> Mapping[str, Stage]:
        """Return the stages of this moment: those of a `Replaceable` change."""
        return stages_of(handler)

    def show_metrics(query: _Query) -> object:
        _check(query)
        return {"since": since, "stages": _status(now())} if metrics is None else metrics.snapshot()

    def show_status(query: _Query) -> object:
        _check(query)
        return {"since": since, "stages": _status(now()), "description": describe(handler)}

    def show_enrichment(query: _Query) -> object:
        _check(query)
        counts = {name: dict(lookup.counts) for name, lookup in known.items()}
        return {"stages": _status(_of_kind(now(), "enrich")), "lookups": counts}

    def show_filters(query: _Query) -> object:
        _check(query)
        return {"stages": _status(_of_kind(now(), *_FILTERS))}

    async def show_aggregation(query: _Query) -> object:
        name, key = _check(query, "aggregator", "key")
        find: Callable[[str], Awaitable[object]] | None = getattr(now().get(name), "query", None)
        if find is None:
            raise _not_found("there is no such aggregator")
        found = await find(key)
        if found is None:
            raise _not_found("there is nothing for this key")
        return found

    return {
        "/metrics/processor": show_metrics,
        "/processor/status": show_status,
        "/processor/enrichment": show_enrichment,
        "/processor/filters": show_filters,
        "/processor/aggregation": show_aggregation,
    }


def _of_kind(stages: Mapping[str, Stage], *kinds: str) -> Mapping[str, Stage]:
    return {name: stage for name, stage in stages.items() if stage.kind in kinds}


def _status(stages: Mapping[str, Stage]) -> Mapping[str, object]:
    return {name: {"kind": stage.kind, **stage.status} for name, stage in stages.items()}


def _check(query: _Query, *wanted: str) -> tuple[str, ...]:
    """Return the parameters that are ``wanted``: all of them, and no other. Raises Refusal, 400."""
    if query.keys() != set(wanted):
        rule = f"takes the parameters {' and '.join(wanted)}" if wanted else "takes no parameters"
        raise Refusal(f"this path {rule}", 400, retryable=False)
    return tuple(query[name] for name in wanted)


def _not_found(reason: str) -> Refusal:
    return Refusal(reason, 404, retryable=False)
