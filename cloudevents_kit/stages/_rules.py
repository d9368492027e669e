"""A stage that asks rules about each event: let it pass, drop it, refuse it, change it, or say where it should go.

The set of rules can be replaced while events pass; each event ends on the set on which it began. Hints where an event
should go travel in the context of its task, never in the event: see `route_hints`.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextvars import ContextVar
from time import perf_counter
from typing import Any, Literal

from cloudevents_kit._arguments import check_choice, check_kind
from cloudevents_kit._contract import Handler, Outcome, log, name_of
from cloudevents_kit._errors import Refusal, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit.stages._conditions import Unreadable
from cloudevents_kit.stages._operators import RuleError, near
from cloudevents_kit.stages._rule import Rule
from cloudevents_kit.stages._rule_loading import Rules, load_rules
from cloudevents_kit.stages._rule_plan import Compiled, Plan
from cloudevents_kit.stages._stage import Stage

#: The key of the event that rules left hints for, and the hints.
_hints: ContextVar[tuple[tuple[str, str], tuple[str, ...]] | None] = ContextVar("cloudevents_kit.hints", default=None)


def route_hints(event: Event) -> tuple[str, ...]:
    """Return the destinations that ``route`` rules of the stages around have named for ``event``, each once.

    They hold for the event's key, so for what later stages make of it too, within its handling alone; they are never
    sent.
    """
    found = _hints.get()
    return found[1] if found is not None and found[0] == event.key else ()


def hinted(*names: str) -> Callable[[Event], str | None]:
    """Return a function that gives the first of an event's hints that is one of ``names``, or None.

    For `route`: ``route(hinted("vip", "bulk"), {"vip": ..., "bulk": ...}, default=PASS)``. Without ``names`` it gives
    the first hint.
    """
    for name in names:
        check_kind("names", name, str, "str, as in the rules")
    wanted = frozenset(names)

    def hint(event: Event) -> str | None:
        found = route_hints(event)
        if not wanted:
            return found[0] if found else None
        return next((name for name in found if name in wanted), None)

    hint.__name__ = "hinted"
    return hint


class RuleFilter(Stage):
    """The stage that `rule_filter` makes."""

    kind = "rule_filter"

    def __init__(self, rules: Rules, *, on_error: str, destinations: Collection[str] | None, name: str | None) -> None:
        """Take what `rule_filter` is given."""
        super().__init__(name)
        check_choice("on_error", on_error, ("allow", "nack"))
        if destinations is not None:
            if isinstance(destinations, str) or not isinstance(destinations, Collection):
                raise TypeError(f"destinations: must be a list of names, not {type(destinations).__name__}")
            for one in destinations:
                check_kind("destinations", one, str, "a list of str, as in the rules")
            destinations = tuple(destinations)
        self._on_error = on_error
        self._destinations = destinations
        self._plan = Plan(self._load(rules), {})

    def _load(self, rules: Rules) -> tuple[Rule, ...]:
        loaded = load_rules(rules)
        if self._destinations is not None:
            for rule in loaded:
                for to in rule.to:
                    if to not in self._destinations:
                        raise RuleError(
                            "to", f"{to!r} is no destination", hint=near(to, self._destinations), name=rule.name
                        )
        return loaded

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"rules": len(self._plan.rules), "on_error": self._on_error}

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules as they are now, in the order in which they are asked."""
        return self._plan.rules

    @property
    def statistics(self) -> Mapping[str, Mapping[str, int]]:
        """By the name of each rule: how often it ``matched``, and ended in ``errors``."""
        return {name: {"matched": one.matched, "errors": one.errors} for name, one in self._plan.tallies.items()}

    @property
    def status(self) -> Mapping[str, object]:
        statistics = self.statistics
        rules = {
            rule.name: {"action": rule.action, "priority": rule.priority, **statistics[rule.name]}
            for rule in self._plan.rules
        }
        return {**super().status, "on_error": self._on_error, "rules": rules}

    def replace(self, rules: Rules) -> None:
        """Ask ``rules`` from now on, instead of all there were; events on their way end on the old ones.

        A rule with a name that was there goes on with its counts. Raises RuleError, and changes nothing, if a rule
        cannot be used.
        """
        self._plan = Plan(self._load(rules), self._plan.tallies)
        self.counts["replaced"] += 1

    def bind(self, call_next: Handler) -> Handler:
        def asked(event: Event) -> Awaitable[Outcome]:
            began = perf_counter()
            plan = self._plan
            unreadable: Unreadable = []
            rules = plan.of_type(event.type) if plan.by_type else plan.general
            found = self._first(rules, event, unreadable, began)
            if found is None:
                return call_next(event)
            return self._obey(found, plan, event, call_next, unreadable=unreadable, began=began)

        return asked

    def _first(self, rules: Iterable[Compiled], event: Event, unreadable: Unreadable, began: float) -> Compiled | None:
        """Return the first of ``rules`` whose conditions hold."""
        for one in rules:
            try:
                if one.test(event, unreadable):
                    return one
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the rule's
                self._failed(one, error, event, began)
        return None

    def _failed(self, one: Compiled, error: Exception, event: Event, began: float) -> None:
        """Count an error of a rule, which then counts as one that does not match; or raise it."""
        one.tally.errors += 1
        self.counts["errors"] += 1
        if self._on_error == "nack":
            raise self.failure(error, event, began) from cause_of(error)
        log.warning("stage %s: rule %r failed: %s", self.name, one.rule.name, name_of(event), exc_info=error)

    async def _obey(
        self,
        found: Compiled | None,
        plan: Plan,
        event: Event,
        call_next: Handler,
        *,
        unreadable: Unreadable,
        began: float,
    ) -> Outcome:
        hints: list[str] = []
        rest: Iterator[Compiled] | None = None
        while found is not None:
            rule = found.rule
            changed = await self._changed(found, event, began) if found.changes else event
            if changed is not None:
                found.tally.matched += 1
                unreadable = unreadable if changed is event else []
                rest = rest if changed.type == event.type else None  # for another type there are other rules
                event = changed
                hints += rule.to
                if rule.action == "block":
                    self.note("dropped")
                    self.counts["blocked"] += 1
                    return None
                if rule.action == "nack":
                    self.note("refused")
                    raise rule.refusal()
                self.counts[_DONE[rule.action]] += 1
                if not rule.continue_:
                    break
            if rest is None:
                rest = iter(plan.of_type(event.type, found.order))
            found = self._first(rest, event, unreadable, began)
        return await (_with_hints(hints, event, call_next) if hints else call_next(event))

    async def _changed(self, found: Compiled, event: Event, began: float) -> Event | None:
        """Return the event as a rule changes it; None if that failed, but the event is to go on."""
        rule = found.rule
        try:
            if rule.function is not None:
                event = await _called(rule.function, event)
            return event.evolve(**rule.set, **dict.fromkeys(rule.remove)) if rule.set or rule.remove else event
        except Refusal:
            found.tally.matched += 1
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the rule's
            self._failed(found, error, event, began)
            return None


async def _called(function: Callable[[Event], Any], event: Event) -> Event:
    changed = function(event)
    if inspect.isawaitable(changed):
        changed = await changed
    if not isinstance(changed, Event):
        raise TypeError(f"the function must return the changed event, not {type(changed).__name__}")
    return changed


_DONE = {"allow": "allowed", "route": "routed", "transform": "transformed"}


async def _with_hints(hints: Iterable[str], event: Event, call_next: Handler) -> Outcome:
    token = _hints.set((event.key, tuple(dict.fromkeys((*route_hints(event), *hints)))))
    try:
        return await call_next(event)
    finally:
        _hints.reset(token)


def rule_filter(
    rules: Rules,
    *,
    on_error: Literal["allow", "nack"] = "allow",
    destinations: Collection[str] | None = None,
    name: str | None = None,
) -> RuleFilter:
    """Do with each event what the first rule says whose conditions hold; let it pass if there is none.

    ``regex`` searches texts of up to 20,000,000 bytes divided by the size of the pattern's program, which is 10 to 20
    instructions for most. For an event with a longer text the rule fails.

    Args:
        rules: a list of `Rule` objects and dicts, a dict with ``rules``, or a `pathlib.Path` to a ``.toml`` or
            ``.json`` file; see `load_rules` for text.
        on_error: a rule that fails for an event, because its data cannot be read for example, counts as one that does
            not match, and the others are asked; this is logged, and counted for the rule. With ``"nack"`` the event
            is stopped with a `StageError`.
        destinations: all names that ``route`` rules may give; another one is a RuleError. None: any.
        name: of this stage.

    Raises:
        RuleError: something in a rule cannot be used; the message names the rule and the place.
    """
    return RuleFilter(rules, on_error=on_error, destinations=destinations, name=name)
