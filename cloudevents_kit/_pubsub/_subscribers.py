"""Who is subscribed, and who of them wants an event. Knows nothing of sending."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, Unpack

from cloudevents_kit._arguments import check_choice, check_kind
from cloudevents_kit._clock import Clock
from cloudevents_kit._contract import log, name_of
from cloudevents_kit._event import Event
from cloudevents_kit._pubsub._delivery import Line
from cloudevents_kit._pubsub._subscription import Settings, Subscription, filter_of
from cloudevents_kit._result import Ack, Nack, Result
from cloudevents_kit._values import remember
from cloudevents_kit.router import Pattern
from cloudevents_kit.stages._stage import name_of_function

_DONE = Ack(status=204)
_UNWANTED = Nack(status=422, reason="no subscriber wants this event")

F = TypeVar("F", bound=Callable[..., Any])


class Subscribers:
    """The subscriptions of a fan-out, which come and go while it runs."""

    def __init__(self, name: str, unhandled: Literal["reject", "ack"], clock: Clock) -> None:
        """Begin with none; see `FanOut`."""
        check_choice("unhandled", unhandled, ("reject", "ack"))
        check_kind("name", name, str, "a str")
        self.name = name
        self._unhandled = unhandled
        self.counts: Counter[str] = Counter()
        """What went wrong: ``failed.<name>``, ``dead_lettered.<name>``, ``unhandled`` and so on."""
        self._clock = clock
        self._lines: dict[str, Line] = {}
        #: By type: who may want it, and what to ask about each event.
        self._by_type: dict[str, list[tuple[Line, Callable[[Event], bool] | None]]] = {}

    def subscribe(self, subscription: Subscription) -> None:
        """Let ``subscription`` have every event from now on. Raises ValueError if its name is taken."""
        check_kind("subscription", subscription, Subscription, "a Subscription")
        if subscription.name in self._lines:
            raise ValueError(f"{subscription.name}: there is a subscription of this name already")
        self._lines[subscription.name] = Line(subscription, self._clock, self.counts)
        self._by_type.clear()

    def on(
        self,
        pattern: str,
        *,
        source: str | None = None,
        subject: str | None = None,
        name: str | None = None,
        **settings: Unpack[Settings],
    ) -> Callable[[F], F]:
        """Subscribe the decorated handler to ``pattern``, as a `Router` takes it; ``name`` is by default its own.

        ``settings`` are those of the `Subscription`.
        """
        wanted = filter_of(Pattern(pattern, source, subject))

        def register(function: F) -> F:
            self.subscribe(Subscription(name or name_of_function(function, "handler"), function, wanted, **settings))
            return function

        return register

    def cancel(self, name: str) -> bool:
        """Let the subscriber ``name`` have no more events; tell whether there was one.

        What is at work there ends as it would have. What waits for it is not sent, and has failed, as ``closed``.
        """
        line = self._lines.pop(name, None)
        if line is None:
            return False
        self._by_type.clear()
        line.cancel()
        return True

    def subscribers_for(self, type: str) -> tuple[str, ...]:
        """Return who may get events of ``type``, in their order: only the filters say whether they want each one."""
        return tuple(line.name for line, _ in self._index(type))

    @property
    def branches(self) -> Mapping[str, object]:
        """The sinks by name, for whoever opens or describes what is in them."""
        return {name: line.sink for name, line in self._lines.items()}

    @property
    def status(self) -> Mapping[str, object]:
        """What the fan-out did, and what each subscriber has, as JSON."""
        lines = self._lines.items()
        now = {name: {"running": line.turns.running, "waiting": line.turns.waiting} for name, line in lines}
        return {**self.counts, "subscribers": now}

    def _wanted_by(self, event: Event) -> list[tuple[Line, bool]]:
        """Return who wants ``event``; False stands for a filter that could not tell."""
        found = []
        for line, asks in self._index(event.type):
            if asks is None:
                found.append((line, True))
                continue
            try:
                if asks(event):
                    found.append((line, True))
            except Exception:  # noqa: BLE001 - one subscriber must not harm another
                log.exception("subscriber %s: its filter failed: %s", line.name, name_of(event))
                found.append((line, False))
        return found

    def _note_unwanted(self, event: Event) -> Result:
        """Return what it means that nobody wants ``event``."""
        self.counts["unhandled"] += 1
        if self._unhandled == "ack":
            return _DONE
        log.warning("%s: no subscriber for event: %s", self.name, name_of(event))
        return _UNWANTED

    def _index(self, type: str) -> list[tuple[Line, Callable[[Event], bool] | None]]:
        found = self._by_type.get(type)
        if found is None:
            found = []
            for line in sorted(self._lines.values(), key=lambda line: line.subscription.order):
                decided = line.subscription.decide(type)
                if decided is not False:
                    found.append((line, None if decided else line.subscription.filter))
            remember(self._by_type, type, found)
        return found
