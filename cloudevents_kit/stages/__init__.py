"""Processing stages: what stands between a receiver and its handler, each one small and composable.

    from cloudevents_kit import Receiver, stages

    Receiver(router, stages.validate(Order), stages.deduplicate(), stages.retry(), port=8080).run()

A stage is a middleware with a name: see `cloudevents_kit.wrap`. What fails in one is raised as a `StageError` that
says where.
"""

from cloudevents_kit._errors import StageError
from cloudevents_kit._paths import field
from cloudevents_kit.stages._adapt import Branch, chain, stage
from cloudevents_kit.stages._functions import enrich, keep_if, tap, transform, validate
from cloudevents_kit.stages._stage import Ending, Hook, Stage, running

__all__ = [
    "Branch",
    "Ending",
    "Hook",
    "Stage",
    "StageError",
    "chain",
    "enrich",
    "field",
    "keep_if",
    "running",
    "stage",
    "tap",
    "transform",
    "validate",
]
