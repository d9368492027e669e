"""A stage that hands an event to several branches, each with a result of its own, before the event goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import MappingProxyType

from cloudevents_kit._arguments import check_callable, check_count, check_kind
from cloudevents_kit._contract import DONE, Handler, Outcome, log, name_of, settle, settle_by_each
from cloudevents_kit._errors import Refusal
from cloudevents_kit._event import Event
from cloudevents_kit._result import Nack, Result
from cloudevents_kit._tasks import is_cancelled
from cloudevents_kit.stages._adapt import Branch, as_branch
from cloudevents_kit.stages._policy import Policy, group_of, names, needed, refusal
from cloudevents_kit.stages._report import tell
from cloudevents_kit.stages._stage import Stage, fate

#: What stands for a branch that ended as if cancelled, though nobody has cancelled it from here.
_CUT_OFF = Nack(status=500, reason="the branch was cancelled", retryable=True)


Report = Callable[[Event, Mapping[str, Result]], object]


class _FanOut(Stage):
    kind = "fan_out"

    def __init__(
        self,
        branches: Mapping[str, Branch],
        policy: Policy,
        limit: int | None,
        report: Report | None,
        name: str | None,
    ) -> None:
        super().__init__(name)
        self._named = dict(branches)
        self._handlers = [as_branch(branch, name=f"branches[{key!r}]") for key, branch in branches.items()]
        self._policy = policy
        self._needed = needed(policy, len(branches))
        if self._needed > len(branches):
            raise ValueError(f"policy: {policy} cannot be reached by {len(branches)} branches")
        self._limit = min(limit or len(branches), len(branches))
        self._report = report
        self._all_done: list[Result] = [DONE] * len(branches)  # as it is nearly always: no need to look at each

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"policy": str(self._policy), "limit": self._limit}

    @property
    def branches(self) -> Mapping[str, object]:
        return self._named

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        """Run all branches, and go on if enough of them have succeeded."""
        answers: list[Result] = []
        outer = fate.get()
        if outer is not None:  # what becomes of the event in a branch is not what becomes of it
            fate.set(None)
        try:
            if self._limit == 1:
                handlers = self._handlers
                while handlers:
                    try:
                        await settle_by_each(handlers, event, answers)
                        break
                    except asyncio.CancelledError:
                        if is_cancelled():
                            raise
                        answers.append(_CUT_OFF)
                        handlers = self._handlers[len(answers) :]
            else:
                await self._at_once(event, answers)
        finally:
            if outer is not None:
                fate.set(outer)
        if self._report is not None or answers != self._all_done:
            await self._judge(event, dict(zip(self._named, answers, strict=True)))
        return await call_next(event)

    async def _judge(self, event: Event, results: dict[str, Result]) -> None:
        """Count and report ``results``; raise a refusal if the policy asks for more than these."""
        failed = {name: result for name, result in results.items() if isinstance(result, Nack)}
        for name in failed:
            self.counts[f"failed.{name}"] += 1
        if self._report is not None and not await tell(self.name, self._report, event, MappingProxyType(results)):
            self.counts["report_failed"] += 1
        if len(results) - len(failed) < self._needed:
            self.counts["refused"] += 1
            worst = refusal(failed, len(results), "branches")
            raise Refusal(worst.reason, worst.status, retryable=worst.retryable, after=worst.retry_after) from group_of(
                failed, "branches"
            )
        if failed:
            log.warning("stage %s: went on without %s: %s", self.name, names(failed), name_of(event))

    async def _at_once(self, event: Event, answers: list[Result]) -> None:
        """Fill ``answers`` in the order of the branches."""
        answers += [_CUT_OFF] * len(self._handlers)
        waiting = iter(enumerate(self._handlers))

        async def work() -> None:
            """Run one branch after the other, as long as there is one that nobody else has taken."""
            for number, handler in waiting:
                try:
                    answers[number] = await settle(handler, event)
                except asyncio.CancelledError:
                    if is_cancelled():
                        raise

        async with asyncio.TaskGroup() as group:
            for _ in range(self._limit - 1):
                group.create_task(work())
            await work()


def fan_out(
    branches: Mapping[str, Branch],
    *,
    policy: Policy = "all",
    limit: int | None = None,
    report: Report | None = None,
    name: str | None = None,
) -> Stage:
    """Hand each event to all ``branches``, wait for their ends, then let it go on, or refuse it.

    A branch that fails does not keep the others from running; one that ends as if cancelled, though nobody has done
    that from here, has failed. An event that is refused is sent again, and then all branches run again: put
    `deduplicate` inside those that must not. Replies of branches are in their results alone.

    Args:
        branches: handlers, sinks and stages, by name; here a stage is followed by nothing.
        policy: which branches must succeed: ``"all"``, `quorum` (n) of them, or, with ``"best_effort"``, none.
            If too few do, the event is refused with the worst of their answers, and the names of those that failed.
        limit: branches that run at once; None for all. With 1 they run one after the other, without tasks.
        report: called, and awaited, with the event and the result of each branch by name, before the event goes on
            or is refused. What it raises is logged. A branch that failed is also counted, as ``failed.<name>``, and
            logged by name if the event goes on without it.
        name: of this stage.
    """
    check_kind("branches", branches, Mapping, "a dict of branches by name")
    if not branches:
        raise ValueError("branches: there must be at least one")
    for one in branches:
        check_kind("branches", one, str, "named with a str", "the name shows up in answers, logs and metrics")
    if limit is not None:
        check_count("limit", limit)
    if report is not None:
        check_callable("report", report)
    return _FanOut(branches, policy, limit, report, name)
