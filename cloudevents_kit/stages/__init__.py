"""Processing stages: what stands between a receiver and its handler, each one small and composable.

    from cloudevents_kit import Receiver, stages

    Receiver(router, stages.validate(Order), stages.deduplicate(), stages.retry(), port=8080).run()

A stage is a middleware with a name: see `cloudevents_kit.wrap`. What fails in one is raised as a `StageError` that
says where.
"""

from cloudevents_kit._errors import StageError
from cloudevents_kit._paths import field
from cloudevents_kit.stages._adapt import Branch, chain, stage
from cloudevents_kit.stages._aggregate import Aggregate, aggregate
from cloudevents_kit.stages._background import background
from cloudevents_kit.stages._batch import Batch, batch
from cloudevents_kit.stages._breaker import CircuitBreaker, circuit_breaker
from cloudevents_kit.stages._cache import Cached, SharedCache
from cloudevents_kit.stages._claims import DedupeStore
from cloudevents_kit.stages._conditions import Condition
from cloudevents_kit.stages._deduplicate import deduplicate
from cloudevents_kit.stages._describe import Description, describe
from cloudevents_kit.stages._endpoints import endpoints
from cloudevents_kit.stages._fan_out import fan_out
from cloudevents_kit.stages._flow import PASS, REJECT, first_of, route, when
from cloudevents_kit.stages._functions import enrich, keep_if, tap, transform, validate
from cloudevents_kit.stages._guards import Bulkhead, bulkhead, retry, timeout
from cloudevents_kit.stages._keys import order_key
from cloudevents_kit.stages._metrics import Metrics
from cloudevents_kit.stages._observe import Observed, observe
from cloudevents_kit.stages._on_error import on_error
from cloudevents_kit.stages._operators import RuleError
from cloudevents_kit.stages._order import Order, order
from cloudevents_kit.stages._policy import Quorum, quorum
from cloudevents_kit.stages._queue import queue
from cloudevents_kit.stages._queue_base import Queue
from cloudevents_kit.stages._queue_store import QueueStore
from cloudevents_kit.stages._race import race
from cloudevents_kit.stages._rate import rate_limit
from cloudevents_kit.stages._reducers import Reducer, avg_of, count, distinct, fold, max_of, min_of, sum_of
from cloudevents_kit.stages._replace import Replaceable
from cloudevents_kit.stages._rule import Rule
from cloudevents_kit.stages._rule_loading import load_rules
from cloudevents_kit.stages._rules import RuleFilter, hinted, route_hints, rule_filter
from cloudevents_kit.stages._stage import Ending, Hook, Recorder, Stage, running
from cloudevents_kit.stages._totals import Totals
from cloudevents_kit.stages._upcast import lint_types, upcast, version_of, with_version
from cloudevents_kit.stages._window_store import WindowStore

__all__ = [
    "PASS",
    "REJECT",
    "Aggregate",
    "Batch",
    "Branch",
    "Bulkhead",
    "Cached",
    "CircuitBreaker",
    "Condition",
    "DedupeStore",
    "Description",
    "Ending",
    "Hook",
    "Metrics",
    "Observed",
    "Order",
    "Queue",
    "QueueStore",
    "Quorum",
    "Recorder",
    "Reducer",
    "Replaceable",
    "Rule",
    "RuleError",
    "RuleFilter",
    "SharedCache",
    "Stage",
    "StageError",
    "Totals",
    "WindowStore",
    "aggregate",
    "avg_of",
    "background",
    "batch",
    "bulkhead",
    "chain",
    "circuit_breaker",
    "count",
    "deduplicate",
    "describe",
    "distinct",
    "endpoints",
    "enrich",
    "fan_out",
    "field",
    "first_of",
    "fold",
    "hinted",
    "keep_if",
    "lint_types",
    "load_rules",
    "max_of",
    "min_of",
    "observe",
    "on_error",
    "order",
    "order_key",
    "queue",
    "quorum",
    "race",
    "rate_limit",
    "retry",
    "route",
    "route_hints",
    "rule_filter",
    "running",
    "stage",
    "sum_of",
    "tap",
    "timeout",
    "transform",
    "upcast",
    "validate",
    "version_of",
    "when",
    "with_version",
]
