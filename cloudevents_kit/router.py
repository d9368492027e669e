"""Handlers by event type.

    router = Router()

    @router.on("com.example.order.created")
    async def created(event: Event, order: Order) -> Event | None: ...

A pattern is an exact type or a prefix that ends in ``.*``; ``source=`` and ``subject=`` narrow it and take the same
two forms (their wildcard is a final ``*``). ``com.example.*`` takes what is below it, not ``com.example`` itself. One
handler runs per event, the most specific one: an exact type before a prefix, a longer prefix before a shorter one, a
narrowed pattern before an open one; the type counts before the source, the source before the subject. A second
parameter makes the router decode the data into its annotated type.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_origin, get_type_hints, is_typeddict

from cloudevents_kit._arguments import check_callable, check_choice, check_kind
from cloudevents_kit._contract import Handler, Outcome, as_handler, is_async, log, name_of
from cloudevents_kit._errors import Reject
from cloudevents_kit._event import Event
from cloudevents_kit._typed import check_type
from cloudevents_kit._values import remember

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "_cloudevents_patterns"


@dataclass(frozen=True, slots=True)
class Pattern:
    """Which events a handler wants."""

    type: str
    """An exact type, or a prefix that ends in ``.*``, or ``*``."""
    source: str | None = None
    """An exact source, or a prefix that ends in ``*``."""
    subject: str | None = None
    """An exact subject, or a prefix that ends in ``*``."""

    def __post_init__(self) -> None:
        """Raise ValueError for a pattern that can never match, or matches something else than it seems to."""
        check_kind("pattern", self.type, str, 'a str such as "com.example.*"')
        if not self.type or "*" in self.type[:-1] or (self.type.endswith("*") and self.type[-2:] not in {"*", ".*"}):
            raise ValueError(f'pattern: must be a type, a prefix such as "com.example.*", or "*", not {self.type!r}')
        for name, text in (("source", self.source), ("subject", self.subject)):
            if text is not None:
                check_kind(name, text, str, "a str, or None")
            if text is not None and (not text or "*" in text[:-1]):
                raise ValueError(f"{name}: must be a text, or a prefix that ends in *, not {text!r}")

    def matches(self, event: Event) -> bool:
        """Tell whether the handler wants ``event``."""
        return all(
            wanted is None or (value is not None and _fits(wanted, value))
            for wanted, value in ((self.type, event.type), (self.source, event.source), (self.subject, event.subject))
        )

    def __str__(self) -> str:
        """Write the pattern as it was given to `on`."""
        narrowed = (("source", self.source), ("subject", self.subject))
        return ", ".join([self.type, *(f"{name}={text}" for name, text in narrowed if text is not None)])

    @property
    def rank(self) -> tuple[int, ...]:
        """Sorts the most specific pattern first."""
        parts = (self.type, self.source, self.subject)
        return tuple(n for part in parts for n in ((1, 0) if part is None else (part.endswith("*"), -len(part))))


def _fits(wanted: str, value: str) -> bool:
    return value.startswith(wanted[:-1]) if wanted.endswith("*") else value == wanted


def on(pattern: str, *, source: str | None = None, subject: str | None = None) -> Callable[[F], F]:
    """Mark a method as the handler for ``pattern``, for `Router.include`. May be stacked."""
    wanted = Pattern(pattern, source, subject)

    def mark(method: F) -> F:
        setattr(method, _MARK, (*getattr(method, _MARK, ()), wanted))
        return method

    return mark


class Router:
    """A handler that hands each event to the handler registered for it.

    Args:
        unhandled: what becomes of an event that no handler wants: ``"reject"`` answers 422, not to be sent again;
            ``"ack"`` takes it and does nothing. Both are counted in `unhandled_count` and logged.
        default: handler for events that no other one wants; then nothing is unhandled.
    """

    is_async_handler = True

    def __init__(
        self, *, unhandled: Literal["reject", "ack"] = "reject", default: Callable[..., Any] | None = None
    ) -> None:
        """Start without handlers."""
        check_choice("unhandled", unhandled, ("reject", "ack"))
        self.unhandled_count = 0
        self._policy = unhandled
        self._routes: dict[Pattern, Handler] = {}
        self._functions: dict[str, Callable[..., Any]] = {} if default is None else {"default": default}
        self._ordered: list[tuple[Pattern, Handler]] = []
        self._found: dict[str, Handler] = {}
        self._default: Handler = self._unwanted if default is None else bind(default)

    def on(self, pattern: str, *, source: str | None = None, subject: str | None = None) -> Callable[[F], F]:
        """Register the decorated function for ``pattern``. Raises ValueError if the pattern has a handler already."""
        wanted = Pattern(pattern, source, subject)

        def register(function: F) -> F:
            self._add((wanted, function))
            return function

        return register

    def include(self, handlers: object) -> None:
        """Register every method of ``handlers`` that is marked with `on`, an override under the mark of its base.

        Raises ValueError if one of them has a pattern that is taken; then none is registered.
        """
        if isinstance(handlers, type):
            raise TypeError(f"handlers: must be an object, not the class {handlers.__name__} itself")
        marked: dict[str, tuple[Pattern, ...]] = {}
        for base in type(handlers).__mro__:
            for name, member in vars(base).items():
                # A static or class method may be marked itself, or the function in it.
                marks = getattr(member, _MARK, None) or getattr(getattr(member, "__func__", None), _MARK, None)
                if marks:
                    marked.setdefault(name, marks)
        if not marked:
            raise ValueError(f"{type(handlers).__name__} has no method marked with @on(...)")
        self._add(*((pattern, getattr(handlers, name)) for name, patterns in marked.items() for pattern in patterns))

    def _add(self, *routes: tuple[Pattern, Callable[..., Any]]) -> None:
        added = dict(self._routes)
        for pattern, function in routes:
            if pattern in added:
                raise ValueError(f"{pattern}: there is a handler for this pattern already")
            added[pattern] = bind(function)
        self._routes = added
        self._functions.update((str(pattern), function) for pattern, function in routes)
        self._ordered = sorted(added.items(), key=lambda route: route[0].rank)
        self._found.clear()

    @property
    def branches(self) -> Mapping[str, Callable[..., Any]]:
        """The registered functions by pattern, and the default."""
        return MappingProxyType(self._functions)

    def __call__(self, event: Event) -> Any:
        """Hand ``event`` to its handler."""
        handler = self._found.get(event.type)
        return handler(event) if handler is not None else self._find(event)(event)

    def _find(self, event: Event) -> Handler:
        """Return the handler for ``event``, remembered by type where nothing but the type decides."""
        candidates = [route for route in self._ordered if _fits(route[0].type, event.type)]
        if all(pattern.source is None and pattern.subject is None for pattern, _ in candidates):
            found = candidates[0][1] if candidates else self._default
            remember(self._found, event.type, found)
            return found
        return next((handler for pattern, handler in candidates if pattern.matches(event)), self._default)

    async def _unwanted(self, event: Event) -> Outcome:
        self.unhandled_count += 1
        log.warning("no handler for event: %s", name_of(event))
        if self._policy == "reject":
            raise Reject("no handler for this event type")
        return None


def bind(function: Callable[..., Any], threads: Executor | None = None) -> Handler:
    """Make a handler of ``function``: with a second parameter it gets the data, decoded into the annotated type.

    Parameters that have a default are left alone. A plain function runs in ``threads``, by default those of the loop.
    """
    check_callable("handler", function)
    every = inspect.signature(function).parameters.values()
    parameters = [one for one in every if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}]
    needed = [one for one in parameters if one.default is one.empty]
    extra = [one for one in every if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if len(parameters) < 1 or len(needed) > 2 or extra:
        raise TypeError(f"{_name(function)}: a handler takes the event, or the event and its data")
    if parameters[0].name == "self":
        raise TypeError(f"{_name(function)}: mark methods with cloudevents_kit.on, then include(...) the object")
    _check_first(function, parameters[0].name)
    if len(needed) < 2:
        return as_handler(function, threads)
    kind = _annotation(function, parameters[1].name)
    if is_async(function):
        typed: Any = lambda event: function(event, event.as_type(kind))  # noqa: E731 - it gets a mark
        typed.is_async_handler = True  # whoever wraps it must not run it in a thread
        return typed  # type: ignore[no-any-return]
    return as_handler(lambda event: function(event, event.as_type(kind)), threads)


def _annotation(function: Callable[..., Any], name: str) -> Any:
    """Return the type that the parameter ``name`` is annotated with. Raises TypeError if no data can be that."""
    try:
        kind = _resolve(function, name)
    except NameError as error:
        raise TypeError(
            f"{_name(function)}: the annotation of {name!r} names {error.name!r}, which is not known at run time "
            "(import it outside TYPE_CHECKING, and define it at module level)"
        ) from None
    try:
        check_type(kind)
    except TypeError as error:
        raise TypeError(f"{_name(function)}: data cannot be decoded into the type of {name!r}: {error}") from None
    return kind


def _check_first(function: Callable[..., Any], name: str) -> None:
    """Raise TypeError if the first parameter is annotated as something that an event is not."""
    try:
        kind = _resolve(function, name)
        kind = get_origin(kind) if get_origin(kind) in {dict, list} else kind
        is_class = isinstance(kind, type) and kind is not Any
        fits = not is_typeddict(kind) and (not is_class or issubclass(Event, kind) or issubclass(kind, Event))
    except (NameError, AttributeError, SyntaxError, TypeError):  # known to type checkers only; a Protocol
        return
    if not fits:
        raise TypeError(f"{_name(function)}: the first parameter takes the event, not its data (event: Event)")


def _resolve(function: Callable[..., Any], name: str) -> Any:
    """Return the annotation of the parameter ``name``, other annotations unread. Raises NameError."""
    target = inspect.unwrap(function)
    while isinstance(target, partial):
        target = inspect.unwrap(target.func)
    target = target if inspect.isfunction(target) or inspect.ismethod(target) else type(target).__call__

    def only() -> None: ...

    only.__annotations__ = {name: getattr(target, "__annotations__", {}).get(name, Any)}
    return get_type_hints(only, getattr(target, "__globals__", {}), include_extras=True)[name]


def _name(function: object) -> str:
    return getattr(function, "__qualname__", type(function).__name__)
