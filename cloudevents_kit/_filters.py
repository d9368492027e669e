"""What a subscription filter is once it is known to be right: a value that tells whether an event passes.

Filters are compiled when they are built. `filters` makes them, from Python and from JSON, and checks what it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cloudevents_kit._arguments import check_kind
from cloudevents_kit._errors import CloudEventsError
from cloudevents_kit._event import Event
from cloudevents_kit._values import Value
from cloudevents_kit.cesql import Expression
from cloudevents_kit.cesql._budget import Costly, Counted
from cloudevents_kit.cesql._casts import to_text
from cloudevents_kit.cesql._compiler import Both
from cloudevents_kit.cesql._operators import Outcome

Attributes = Mapping[str, Value]
#: An event passes if the outcome is True; that of an expression may also be no Boolean, or an error.
Test = Callable[[Attributes], Outcome | Both]
Pair = tuple[str, str]

#: How deep filters may stand within filters.
MAX_DEPTH: Final = 32
#: How many filters there may be in one; every further attribute of an exact, prefix or suffix counts, too.
MAX_FILTERS: Final = 4096


class FilterError(CloudEventsError, ValueError):
    """A filter breaks a rule of the CloudEvents Subscriptions API.

    ``path`` leads to the place, as in ``filters[1].all[0].prefix``; ``rule`` is what does not hold there.
    """

    def __init__(self, path: str, rule: str, *, hint: str = "") -> None:
        """Describe the broken ``rule``; ``hint`` says how to mend it."""
        self.path = path
        self.rule = rule
        self.hint = hint
        super().__init__(f"{path}: {rule}" + (f" ({hint})" if hint else ""))


class Filter:
    """Tells whether an event passes: ``filter(event)`` is True or False. Immutable, and compared by value.

    Made by the functions of `cloudevents_kit.filters`.
    """

    __slots__ = ("_depth", "_dialect", "_parts", "_size", "_test")

    def __init__(self, dialect: str, parts: tuple[Any, ...]) -> None:
        """Compile a filter whose parts were checked: pairs of name and text, filters, or one expression."""
        self._dialect = dialect
        self._parts = parts
        self._test = _COMPILERS[dialect](parts)
        nested = [part for part in parts if isinstance(part, Filter)]
        own = 0 if dialect == "filters" else 1
        self._depth: int = own + max((part._depth for part in nested), default=0)
        self._size: int = own + sum(part._size for part in nested) + (0 if nested else max(len(parts) - 1, 0))

    def __call__(self, event: Event) -> bool:
        """Tell whether ``event`` passes."""
        if type(event) is not Event:
            event = Event.of(event)
        try:
            return self._test(event._attributes) is True
        except Costly:  # all expressions together may cost as much as a single one
            return self._test(Counted(event._attributes)) is True

    def to_json(self) -> dict[str, Any] | list[Any]:
        """Return the filter as JSON of the Subscriptions API: an object, or the array it was read from."""
        parts = self._parts
        if self._dialect == "filters":
            return [part.to_json() for part in parts]
        if self._dialect in {"all", "any"}:
            return {self._dialect: [part.to_json() for part in parts]}
        if self._dialect == "not":
            return {"not": parts[0].to_json()}
        return {"sql": parts[0].text} if self._dialect == "sql" else {self._dialect: dict(parts)}

    def __eq__(self, other: object) -> bool:
        """Compare dialects and what they are given; the order of attributes does not matter."""
        if not isinstance(other, Filter):
            return NotImplemented
        return self._dialect == other._dialect and self._comparable() == other._comparable()

    def __hash__(self) -> int:
        """Hash by value."""
        return hash((self._dialect, self._comparable()))

    def __repr__(self) -> str:
        """Show how its JSON begins."""
        text = repr(self.to_json())
        return f"Filter({text if len(text) <= 80 else text[:80] + '…'})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel by value; it is compiled again where it arrives."""
        return Filter, (self._dialect, self._parts)

    def _comparable(self) -> object:
        return frozenset(self._parts) if self._dialect in MATCHERS else self._parts


def _exact(name: str, wanted: str) -> Test:
    def test(attributes: Attributes) -> bool:
        value = attributes.get(name)
        if value.__class__ is str:
            return value == wanted
        return value is not None and to_text(value) == wanted

    return test


def _prefix(name: str, wanted: str) -> Test:
    def test(attributes: Attributes) -> bool:
        value = attributes.get(name)
        if isinstance(value, str):
            return value.startswith(wanted)
        return value is not None and to_text(value).startswith(wanted)

    return test


def _suffix(name: str, wanted: str) -> Test:
    def test(attributes: Attributes) -> bool:
        value = attributes.get(name)
        if isinstance(value, str):
            return value.endswith(wanted)
        return value is not None and to_text(value).endswith(wanted)

    return test


#: The dialects that compare attributes with texts.
MATCHERS: dict[str, Callable[[str, str], Test]] = {"exact": _exact, "prefix": _prefix, "suffix": _suffix}


def _every(tests: list[Test]) -> Test:
    if len(tests) == 1:
        return tests[0]

    def test(attributes: Attributes) -> bool:
        for one in tests:  # noqa: SIM110 - quicker than a generator for all()
            if one(attributes) is not True:
                return False
        return True

    return test


def _some(tests: list[Test]) -> Test:
    def test(attributes: Attributes) -> bool:
        for one in tests:  # noqa: SIM110 - as in _every
            if one(attributes) is True:
                return True
        return False

    return test


def _one_of(name: str, wanted: frozenset[str]) -> Test:
    def test(attributes: Attributes) -> bool:
        value = attributes.get(name)
        if value.__class__ is str:
            return value in wanted
        return value is not None and to_text(value) in wanted

    return test


def _matching(dialect: str) -> Callable[[tuple[Pair, ...]], Test]:
    match = MATCHERS[dialect]
    return lambda pairs: _every([match(name, wanted) for name, wanted in pairs])


def _all(filters: tuple[Filter, ...]) -> Test:
    return _every([one._test for one in filters])


def _any(filters: tuple[Filter, ...]) -> Test:
    pairs = [one._parts[0] for one in filters if one._dialect == "exact" and len(one._parts) == 1]
    if len(pairs) == len(filters) and len({name for name, _ in pairs}) == 1:  # one look-up for many texts
        return _one_of(pairs[0][0], frozenset(wanted for _, wanted in pairs))
    return _some([one._test for one in filters])


def _not(filters: tuple[Filter]) -> Test:
    test = filters[0]._test
    return lambda attributes: test(attributes) is not True


def _sql(expressions: tuple[Expression]) -> Test:
    return expressions[0]._run


_COMPILERS: dict[str, Callable[[tuple[Any, ...]], Test]] = {
    **{dialect: _matching(dialect) for dialect in MATCHERS},
    "all": _all,
    "any": _any,
    "not": _not,
    "sql": _sql,
    "filters": _all,
}


def combined(dialect: str, inner: tuple[Filter, ...], path: str) -> Filter:
    """Return a filter made of others; raise FilterError about ``path`` if it is none or too large."""
    if not inner:
        raise FilterError(path, "must have at least one filter")
    for one in inner:
        check_kind("filters", one, Filter, "a Filter", "exact, prefix, all_of and so on make one")
    made = Filter(dialect, tuple(_nestable(one, path) for one in inner))
    if made._depth > MAX_DEPTH:
        raise FilterError(path, f"is nested deeper than {MAX_DEPTH} filters")
    if made._size > MAX_FILTERS:
        raise FilterError(path, f"there are more than {MAX_FILTERS} filters")
    return made


def _nestable(one: Filter, path: str) -> Filter:
    """Return a filter that was read from an array as one that can stand within another."""
    if one._dialect != "filters":
        return one
    if not one._parts:
        raise FilterError(path, "an empty array of filters cannot stand within another filter")
    return Filter("all", one._parts)


def decide(one: Filter, type: str) -> bool | None:
    """Tell what becomes of all events of ``type``, or None if that depends on more than the type."""
    dialect, parts = one._dialect, one._parts
    if dialect in MATCHERS:
        match = MATCHERS[dialect]
        known = [match(name, text)({name: type}) is True if name == "type" else None for name, text in parts]
    elif dialect == "sql":
        return None
    else:
        known = [decide(part, type) for part in parts]
    if dialect == "not":
        return None if known[0] is None else not known[0]
    ends = dialect == "any"  # one such part decides for all
    return ends if ends in known else None if None in known else not ends
