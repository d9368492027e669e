"""Who uses a store in this process: two that share one take each other's events, and nobody would be told.

A warning and no error, since several that do the same may well share one, such as the receivers of two ports: those
whose events go to the same end are taken for such. Keeps nothing alive.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

from cloudevents_kit._contract import log
from cloudevents_kit._lifecycle import links


class _Use(NamedTuple):
    user: int
    name: str
    end: object
    at_last: weakref.finalize[Any, Any]
    """Forgets a user that nobody has any more."""


#: By the id of a store, those that use it.
_uses: dict[int, list[_Use]] = {}


def begin_use(store: object, user: object, name: str, handler: object) -> None:
    """Note that ``user`` uses ``store`` until `end_use`; warn if another one does, to another end.

    ``handler`` is where its events go, or a text that says what it does.
    """
    users = _uses.setdefault(id(store), [])
    if any(other.user == id(user) for other in users):
        return
    end: object = handler
    if not isinstance(handler, str):
        last = end_of(handler)
        name, end = f"{name} in front of {_name(last)}", _identity(last)
    other = next((other for other in users if other.end != end), None)
    if other is not None:
        log.warning(
            "%s and %s share one %s: each takes events of the other for its own, which then misses them; "
            "give each the store of a scope of its own, store.scoped(name)",
            *(other.name, name, type(store).__name__),
        )
    at_last = weakref.finalize(user, _forget, id(store), id(user))
    at_last.atexit = False
    users.append(_Use(id(user), name, end, at_last))


def end_use(store: object, user: object) -> None:
    """Note that ``user`` no longer uses ``store``."""
    _forget(id(store), id(user))


def _forget(store: int, user: int) -> None:
    users = _uses.pop(store, [])
    for use in users:
        if use.user == user:
            use.at_last.detach()
    if left := [use for use in users if use.user != user]:
        _uses[store] = left


def end_of(handler: Any) -> Any:
    """Return what an event reaches last that goes to ``handler``, as far as there is only one way."""
    seen: set[int] = set()
    while id(handler) not in seen:  # sinks may name each other
        seen.add(id(handler))
        found = links(handler)
        handler = next((found[name] for name in ("call_next", "handler", "sink") if name in found), handler)
    return handler


def _identity(end: Any) -> object:
    """Return what is equal for the same handler; a bound method is made anew each time."""
    return id(getattr(end, "__self__", end)), getattr(getattr(end, "__func__", None), "__qualname__", "")


def _name(end: Any) -> str:
    return getattr(end, "__name__", None) or type(end).__name__
