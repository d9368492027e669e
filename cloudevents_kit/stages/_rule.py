"""One rule: its conditions, and what is done with the events that they hold for.

Whatever is wrong with a rule is a `RuleError` when it is made. Knows no stage: what an action does is told in `_rules`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from cloudevents_kit._errors import RETRYABLE_4XX, CloudEventsError, EventError, Refusal, Reject, Retry
from cloudevents_kit._event import Event
from cloudevents_kit._values import Value, check_name
from cloudevents_kit.cesql import ParseError, parse
from cloudevents_kit.stages._conditions import Test, Unreadable, When, read_when
from cloudevents_kit.stages._operators import RuleError, near

Action = Literal["allow", "block", "nack", "route", "transform"]
ACTIONS: tuple[str, ...] = get_args(Action)
Change = Callable[[Event], Event | Awaitable[Event]]

_MOST_NAMES = 100
LONGEST_NAME = 200

#: Which actions take a field; those that are not here all do.
_TAKEN_BY: dict[str, tuple[str, ...]] = {
    "to": ("route",),
    "set": ("allow", "route", "transform"),
    "remove": ("allow", "route", "transform"),
    "function": ("transform",),
    "reason": ("nack",),
    "status": ("nack",),
    "retry_after": ("nack",),
    "continue_": ("route", "transform"),
}
_FIXED = frozenset({"id", "source", "specversion", "data"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is done with the events for which all conditions hold. Raises RuleError for a rule that cannot be used."""

    name: str
    """Names the rule in counts, errors and logs; no two rules of a set have the same."""
    action: Action
    """``allow`` lets the event pass, ``block`` drops it, ``nack`` refuses it, ``route`` leaves hints, ``transform``
    changes it."""
    when: Sequence[When] | When = ()
    """Conditions, all of which must hold; a group is ``{"any": [...]}`` or ``{"all": [...]}``. None: every event."""
    sql: str | None = None
    """CloudEvents SQL that must be true, beside the conditions."""
    priority: int = 0
    """Rules with a higher one are asked first, equal ones in the order in which they are given."""
    to: Sequence[str] | str = ()
    """Of ``route``: names of destinations, to be read by `hinted` and `route_hints`."""
    set: Mapping[str, Value] = field(default_factory=dict)
    """Attributes that the event is given."""
    remove: Sequence[str] | str = ()
    """Attributes that are taken from it."""
    function: Change | None = None
    """Of ``transform``: returns the changed event; it runs in the loop and must not block."""
    reason: str | None = None
    """Of ``nack``: what the peer is told."""
    status: int | None = None
    """Of ``nack``: 422 unless said otherwise; a 5xx, or a 4xx such as 429, asks the peer to send the event again."""
    retry_after: float | None = None
    """Of ``nack``: seconds after which to send it again; the status is 503 unless said otherwise."""
    continue_: bool = False
    """Of ``route`` and ``transform``: whether further rules are asked; in a dict, TOML or JSON it is ``continue``."""

    def __post_init__(self) -> None:
        """Check all of it, and put it into its final form."""
        for name, kind, wanted in _KINDS:
            if not isinstance(getattr(self, name), kind) or (kind is int and isinstance(self.priority, bool)):
                raise RuleError(name, f"must be {wanted}, not {type(getattr(self, name)).__name__}")
        if not self.name or len(self.name) > LONGEST_NAME:
            raise RuleError("name", f"must have 1 to {LONGEST_NAME} characters")
        try:
            self._check()
        except RuleError as error:
            raise error.within("", name=self.name) from None

    def _check(self) -> None:
        if self.action not in ACTIONS:
            raise RuleError("action", f"{self.action[:40]!r} is no action", hint=near(self.action, ACTIONS))
        for name, actions in _TAKEN_BY.items():
            if self.action not in actions and getattr(self, name) not in (None, False, (), "", [], {}):
                raise RuleError(name.rstrip("_"), f"is only for {' and '.join(actions)}, not for {self.action}")
        if self.function is not None and not callable(self.function):
            raise RuleError("function", f"must be a function, not {type(self.function).__name__}")
        self._fill("when", read_when(self.when))
        for name in ("to", "remove"):
            self._fill(name, _names(name, getattr(self, name)))
        self._fill("set", _checked_changes(self.set, self.remove))
        if self.sql is not None:
            parse_sql(self.sql)
        self._check_action()

    def _check_action(self) -> None:
        if self.action == "route" and not self.to:
            raise RuleError("to", "is required for route")
        if self.action == "transform" and not (self.set or self.remove or self.function):
            raise RuleError("set", "is required for transform", hint="or remove, or a function")
        if self.action == "nack":
            self.refusal()

    def _fill(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def refusal(self) -> Refusal:
        """Return what a ``nack`` raises. Raises RuleError if that is none."""
        reason = self.reason or "refused by a rule"
        status = self.status
        if status is None:
            status = 422 if self.retry_after is None else 503
        try:
            if status in RETRYABLE_4XX or status >= 500:
                return Retry(self.retry_after, reason, status)
            refusal = Reject(reason, status)
        except (TypeError, ValueError) as error:
            path, _, problem = str(error).partition(": ")
            raise RuleError({"after": "retry_after"}.get(path, path), problem) from None
        if self.retry_after is not None:
            raise RuleError("retry_after", f"is for a status that is to be sent again, not for {status}")
        return refusal


_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("name", str, "text"),
    ("action", str, "text"),
    ("priority", int, "a whole number"),
    ("sql", str | None, "text"),
    ("set", Mapping, "a table of attributes"),
    ("reason", str | None, "text"),
    ("status", int | None, "a whole number"),
    ("continue_", bool, "true or false"),
)
#: What a rule is made of, as a dict, TOML and JSON spell it.
FIELDS = tuple(name.rstrip("_") for name in Rule.__dataclass_fields__)


def _names(path: str, names: object) -> tuple[str, ...]:
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, list | tuple | set | frozenset):
        raise RuleError(path, f"must be a name or a list of names, not {type(names).__name__}")
    if len(names) > _MOST_NAMES:
        raise RuleError(path, f"has more than {_MOST_NAMES} names")
    for at, name in enumerate(names):
        if not isinstance(name, str) or not 1 <= len(name) <= LONGEST_NAME:
            raise RuleError(f"{path}[{at}]", f"must be text of 1 to {LONGEST_NAME} characters")
    return tuple(dict.fromkeys(names))


def _checked_changes(changes: Mapping[str, Any], removed: Sequence[str]) -> dict[str, Any]:
    """Return ``changes`` as they are; raise RuleError if no event could take them, or part with what is removed."""
    for at, name in enumerate(removed):
        _check_attribute(f"remove[{at}]", name)
        if name == "type" or name in changes:
            raise RuleError(f"remove[{at}]", "cannot be removed" if name == "type" else "is set as well")
    for name, value in changes.items():
        _check_attribute(f"set.{name}", name)
        if value is None:
            raise RuleError(f"set.{name}", "cannot be null", hint="use remove")
    try:
        _TRIAL.evolve(**changes)
    except EventError as error:
        raise RuleError(f"set.{error.attribute}", str(error).partition(": ")[2]) from None
    return dict(changes)


#: Takes any attribute that an event could have, for it has those that others need beside them.
_TRIAL: Final = Event(
    type="t",
    source="/s",
    severitynumber=1,
    authtype="user",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    deprecationfrom="0001-01-01T00:00:00Z",
)


def _check_attribute(path: str, name: object) -> None:
    if name in _FIXED:
        hint = "use a function" if name != "specversion" else ""
        raise RuleError(path, "a rule does not change the identity of an event, or its data", hint=hint)
    try:
        check_name(name)  # type: ignore[arg-type]
    except (EventError, TypeError) as error:
        raise RuleError(path[:LONGEST_NAME], getattr(error, "rule", "names no attribute")) from None


def parse_sql(text: str) -> Test:
    """Return what tells whether ``text``, CloudEvents SQL, is true. Raises RuleError."""
    try:
        expression = parse(text)
    except ParseError as error:
        raise RuleError("sql", str(error)) from None

    def holds(event: Event, _: Unreadable) -> bool:
        value, errors = expression.evaluate(event)
        for error in errors:
            if error.kind != "missingAttribute":  # what is missing satisfies nothing, here as in a condition
                raise CloudEventsError(str(error))
        return value is True and not errors

    return holds
