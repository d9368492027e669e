"""What a chain is made of, as data and as a tree to read: names and settings, never values of events or secrets.

Follows the links that `_lifecycle` walks. Sinks are told by their class alone, since they hold addresses and tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import isfinite
from typing import Any

from cloudevents_kit._lifecycle import links, walk
from cloudevents_kit.stages._adapt import free_name, is_adapter
from cloudevents_kit.stages._stage import Stage


class Description(dict[str, Any]):
    """A part of a chain: ``kind``, ``name``, ``parameters`` and ``children`` by name. JSON; as text, a tree."""

    def __str__(self) -> str:
        """Draw the tree, one part a line."""
        return "\n".join(_lines(self))


def describe(handler: object) -> Description:
    """Tell what ``handler`` is made of: its stages in order and their branches, down to the last handler.

    A wrapped handler is a ``chain`` whose children are numbered, the outermost stage first. A part that was described
    before, and has parts of its own, is only named: ``repeated``.
    """
    return _Describer().part(handler)


def stages_of(*things: object) -> dict[str, Stage]:
    """Return every stage in ``things``, outermost first, by names that differ: ``tap``, ``tap 2``."""
    found: dict[str, Stage] = {}
    for part in walk(*things):
        if isinstance(part, Stage):
            found[free_name(part.name, found)] = part
    return found


class _Describer:
    def __init__(self) -> None:
        self._seen: dict[int, object] = {}  # holds what it has seen, or another part might get the same id

    def part(self, thing: object, kind: str = "handler") -> Description:
        steps = [*_steps(thing)]
        if len(steps) == 1:
            return self._one(steps[0], kind)
        *stages, last = steps
        numbered = enumerate([*(self._one(stage, "middleware") for stage in stages), self._one(last, "handler")], 1)
        return _node("chain", "chain", {}, {str(number): part for number, part in numbered})

    def _one(self, thing: object, kind: str) -> Description:
        inside = links(thing)
        within = "middleware" if is_adapter(thing) else "handler"
        if isinstance(thing, Stage):
            found = _node(thing.kind, thing.name, _plain(thing.parameters), {})
        elif hasattr(thing, "send"):
            found = _node("sink", type(thing).__name__, {}, {})
        else:
            found = _node(kind, _name(thing), {}, {})
        if inside and id(thing) in self._seen:
            found["repeated"] = True
            return found
        self._seen[id(thing)] = thing
        found["children"].update((str(name), self.part(part, within)) for name, part in inside.items())
        return found


def _steps(thing: Any) -> Iterator[object]:
    """Yield the stages around a handler and the handler itself, what merely passes on left out."""
    seen: set[int] = set()
    while id(thing) not in seen:
        seen.add(id(thing))
        found = links(thing)
        if found.keys() == {"stage", "call_next"}:
            yield found["stage"]
            thing = found["call_next"]
        elif hasattr(thing, "__wrapped__"):
            thing = thing.__wrapped__
        elif found.keys() == {"sink"} and not isinstance(thing, Stage) and not hasattr(thing, "send"):
            thing = found["sink"]
        else:
            break
    yield thing


def _node(kind: str, name: str, parameters: object, children: dict[str, Description]) -> Description:
    return Description(kind=kind, name=name, parameters=parameters, children=children)


def _name(thing: Any) -> str:
    while isinstance(thing, partial):
        thing = thing.func
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    return str(name).rpartition("<locals>.")[2]


def _plain(value: object) -> Any:
    """Return ``value`` as JSON has it; what is none is told by its name, or that of its class."""
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        ordered = value if isinstance(value, list | tuple) else sorted(value, key=str)
        return [_plain(one) for one in ordered]
    return _name(value)


def _lines(part: Description, label: str = "", indent: str = "") -> Iterator[str]:
    children: dict[str, Description] = part["children"]
    if part["kind"] == "chain" and part["name"] == "chain":
        own = label.removesuffix(": ") + ":" if label else ""
    else:
        own = label + _line(part)
    if own:
        yield indent + own
        indent += "  "
    for name, child in children.items():
        yield from _lines(child, f"{name}. " if name.isdigit() else f"{name}: ", indent)


def _line(part: Description) -> str:
    kind, name = part["kind"], part["name"]
    given = ", ".join(f"{key}={value}" for key, value in part["parameters"].items() if value is not None)
    more = f" ({given})" if given else ""
    return (kind if name == kind else f"{kind} {name}") + more + (" (see above)" if "repeated" in part else "")
