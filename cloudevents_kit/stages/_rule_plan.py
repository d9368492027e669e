"""A set of rules made ready to be asked: compiled, in order, and by the type of event that they are for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from heapq import merge
from operator import attrgetter

from cloudevents_kit._event import Event
from cloudevents_kit._values import remember
from cloudevents_kit.stages._conditions import Condition, Node, Test, Unreadable, compile_all
from cloudevents_kit.stages._rule import Rule, parse_sql

_MOST_TYPES = 1024


class Tally:
    """What one rule did so far; it goes on when the rule is replaced by another of the same name."""

    __slots__ = ("errors", "matched")

    def __init__(self) -> None:
        self.matched = 0
        self.errors = 0


class Compiled:
    """A rule that can be asked."""

    __slots__ = ("changes", "order", "rule", "tally", "test")

    def __init__(self, rule: Rule, order: int, test: Test | None, tally: Tally) -> None:
        """Take what `Plan` has made."""
        self.rule = rule
        self.order = order
        self.test = test or _always
        self.tally = tally
        self.changes = bool(rule.set or rule.remove or rule.function)


def _always(_event: Event, _unreadable: Unreadable) -> bool:
    return True


_by_order = attrgetter("order")


class Plan:
    """The rules of a set, in the order in which they are asked.

    Rules that are for single types are found by the type, without being asked; their order among the others stays.
    """

    def __init__(self, rules: Sequence[Rule], tallies: Mapping[str, Tally]) -> None:
        """Compile ``rules``; those whose names are in ``tallies`` go on counting there."""
        self.rules = tuple(rules)
        self.tallies = {rule.name: tallies.get(rule.name) or Tally() for rule in rules}
        self.by_type: dict[str, list[Compiled]] = {}
        """The rules that are for a type only."""
        general = []
        for order, rule in enumerate(rules):
            types, others = _for_types(rule.when)  # type: ignore[arg-type]  # as `Rule` has put it
            one = Compiled(rule, order, _test_of(rule, others), self.tallies[rule.name])
            if types is None:
                general.append(one)
            for event_type in types or ():
                self.by_type.setdefault(event_type, []).append(one)
        self.general = tuple(general)
        """The others."""
        self._merged: dict[str, tuple[Compiled, ...]] = {}

    def of_type(self, event_type: str, after: int = -1) -> tuple[Compiled, ...]:
        """Return the rules to ask about an event, those ``after`` the one in that place."""
        found = self._merged.get(event_type)
        if found is None:
            found = self._merge(event_type)
        return found if after < 0 else found[bisect_right(found, after, key=_by_order) :]

    def _merge(self, event_type: str) -> tuple[Compiled, ...]:
        own = self.by_type.get(event_type)
        if own is None:  # peers choose the types: only those that rules name are remembered
            return self.general
        merged = tuple(merge(own, self.general, key=_by_order))
        remember(self._merged, event_type, merged, _MOST_TYPES)
        return merged


def _for_types(nodes: Sequence[Node]) -> tuple[set[str] | None, Sequence[Node]]:
    """Return the only types that ``nodes`` can hold for, None for any, and the nodes that are then left to ask."""
    for at, node in enumerate(nodes):
        if isinstance(node, Condition) and node.field == "type" and node.op in {"eq", "in"}:
            wanted = node.value if node.op == "in" else (node.value,)
            if all(isinstance(one, str) for one in wanted):
                return {*wanted}, (*nodes[:at], *nodes[at + 1 :])
    return None, nodes


def _test_of(rule: Rule, nodes: Sequence[Node]) -> Test | None:
    test = compile_all(nodes)
    if rule.sql is None:
        return test
    sql = parse_sql(rule.sql)
    return sql if test is None else _both(test, sql)


def _both(first: Test, second: Test) -> Test:
    return lambda event, unreadable: first(event, unreadable) and second(event, unreadable)
