"""The circuit breaker: leaves a handler alone for a while that has failed several times in a row.

One circuit per key. A circuit is *closed* (events pass), *open* (they are refused) or *half open* (a few may try).
Every change begins a new era, and what began in an earlier one no longer counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from time import perf_counter
from typing import Literal

from cloudevents_kit._arguments import check_count, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, verdict
from cloudevents_kit._errors import Refusal, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit.stages._calls import check_plain, plain
from cloudevents_kit.stages._keys import Key, key_of
from cloudevents_kit.stages._stage import Stage, Withheld

_SYSTEM = SystemClock()
#: Seconds to wait while others try, which takes nobody knows how long.
_SOON = 1.0
State = Literal["closed", "open", "half_open"]


class _Circuit:
    __slots__ = ("era", "failures", "probing", "until")

    def __init__(self) -> None:
        self.era = 0
        self.failures = 0  # in a row
        self.until: float | None = None  # when it will be half open, or was; None: it is closed
        self.probing = 0


class CircuitBreaker(Stage):
    """Refuses events while what lies further in is failing; made by `circuit_breaker`."""

    kind = "circuit_breaker"

    def __init__(
        self,
        *,
        failures: int,
        reset: float,
        probes: int,
        key: Key | None,
        max_keys: int,
        is_failure: Callable[[Exception], bool] | None,
        clock: Clock,
        name: str | None,
    ) -> None:
        """Take what `circuit_breaker` takes."""
        for given, count in (("failures", failures), ("probes", probes), ("max_keys", max_keys)):
            check_count(given, count)
        check_positive("reset", reset)
        for given, function in (("key", key), ("is_failure", is_failure)):
            if function is not None:
                check_plain(given, function)
        check_methods("clock", clock, "a Clock", "monotonic", "now", "sleep")
        super().__init__(name)
        self._failures = failures
        self._reset = reset
        self._probes = probes
        self._key = key
        self._max_keys = max_keys
        self._is_failure = is_failure
        self._clock = clock
        self._closed: OrderedDict[Hashable, _Circuit] = OrderedDict()
        self._open: OrderedDict[Hashable, _Circuit] = OrderedDict()  # the half open ones, too

    @property
    def parameters(self) -> Mapping[str, object]:
        """The settings."""
        return {
            "failures": self._failures,
            "reset": self._reset,
            "probes": self._probes,
            "per_key": self._key is not None,
            "max_keys": self._max_keys,
        }

    @property
    def status(self) -> Mapping[str, object]:
        """The counts, and how many circuits are not closed now."""
        if self._key is None:
            return {**self.counts, "state": self.state()}
        return {**self.counts, "keys_open": len(self._open)}

    def state(self, key: Hashable = None) -> State:
        """Tell how the circuit of ``key`` is now."""
        circuit = self._open.get(key)
        if circuit is None or circuit.until is None:
            return "closed"
        return "open" if self._clock.monotonic() < circuit.until else "half_open"

    @property
    def states(self) -> Mapping[Hashable, State]:
        """The keys whose circuits are not closed, and how they are now."""
        return {key: self.state(key) for key in self._open}

    def bind(self, call_next: Handler) -> Handler:
        """Return what guards ``call_next``."""
        closed, find = self._closed, self._key

        async def guarded(event: Event) -> Outcome:
            key = None if find is None else key_of(self, find, event)
            circuit = closed.get(key) or self._enter(key)
            era = circuit.era
            try:
                outcome = await call_next(event)
            except Exception as error:
                self._ended_with(error, event, key, circuit, era)
                raise
            except BaseException:  # cancelled, which tells nothing
                self._leave(circuit, era)
                raise
            if circuit.failures:
                self._succeed(key, circuit, era)
            return outcome

        return guarded

    def _enter(self, key: Hashable) -> _Circuit:
        """Return a new circuit, or let in a probe of an open one. Raises Withheld if that cannot be."""
        circuit = self._open.get(key)
        if circuit is None or circuit.until is None:
            if len(self._closed) + len(self._open) >= self._max_keys:
                _, dropped = (self._closed or self._open).popitem(last=False)
                dropped.era += 1
            circuit = self._closed[key] = _Circuit()
            return circuit
        left = circuit.until - self._clock.monotonic()
        if left > 0 or circuit.probing >= self._probes:
            self.note("rejected")
            after = left if left > 0 else min(_SOON, self._reset)
            raise Withheld(after, f"not available at the moment ({self.name})")
        circuit.probing += 1
        return circuit

    def _leave(self, circuit: _Circuit, era: int) -> None:
        """End an attempt that tells nothing."""
        if circuit.era == era and circuit.until is not None:
            circuit.probing -= 1

    def _succeed(self, key: Hashable, circuit: _Circuit, era: int) -> None:
        if circuit.era != era:
            return
        circuit.failures = 0
        if circuit.until is not None:
            self.counts["closed"] += 1
            circuit.era += 1
            circuit.until = None
            circuit.probing = 0
            self._closed[key] = self._open.pop(key)

    def _ended_with(self, error: Exception, event: Event, key: Hashable, circuit: _Circuit, era: int) -> None:
        try:
            counts = _is_failure(error, event) if self._is_failure is None else plain(self._is_failure(error))
        except Exception as broken:  # noqa: BLE001 - reported with the error it was asked about
            self._fail(key, circuit, era)
            both = ExceptionGroup("an event failed, and so did is_failure", [error, broken])
            raise self.failure(both, event, perf_counter()) from both
        if counts:
            self._fail(key, circuit, era)
        else:
            self._leave(circuit, era)

    def _fail(self, key: Hashable, circuit: _Circuit, era: int) -> None:
        if circuit.era != era:
            return
        circuit.failures += 1
        if circuit.until is None:
            self._closed.move_to_end(key)  # those that have not failed for longest are forgotten first
            if circuit.failures < self._failures:
                return
            del self._closed[key]
        self.counts["opened"] += 1
        circuit.era += 1
        circuit.until = self._clock.monotonic() + self._reset
        circuit.probing = 0
        self._open[key] = circuit
        self._open.move_to_end(key)


def _is_failure(error: Exception, event: Event) -> bool:
    """Tell whether ``error`` says that what lies further in is in trouble, and not just this event."""
    cause = cause_of(error)
    if isinstance(cause, ExceptionGroup):
        return any(_is_failure(one, event) for one in cause.exceptions)
    if isinstance(cause, Refusal):
        return cause.retryable and cause.status >= 500 and not isinstance(cause, Withheld)
    return verdict(error, event).retryable


def circuit_breaker(
    *,
    failures: int = 5,
    reset: float = 30.0,
    probes: int = 1,
    key: Key | None = None,
    max_keys: int = 10_000,
    is_failure: Callable[[Exception], bool] | None = None,
    clock: Clock = _SYSTEM,
    name: str | None = None,
) -> CircuitBreaker:
    """Refuse events for ``reset`` seconds when ``failures`` in a row have failed further in.

    They are answered 503, with the time until the next attempt. Then up to ``probes`` at a time are let through: the
    first to succeed closes the circuit, the first to fail opens it again for all of ``reset``.

    What counts as a failure is an error that is worth sending the event again for, a refusal only with 5xx. Neither a
    failure nor a success is what was cancelled, and what another stage further in did not let pass: its limit was
    reached, its queue was full, it was not open. ``is_failure``, a plain function of the error, decides otherwise.

    ``key``, a plain function too, gives each of its values a circuit of its own; a list or an object is answered 422.
    At most ``max_keys`` are remembered; closed ones are forgotten first.
    """
    return CircuitBreaker(
        failures=failures,
        reset=reset,
        probes=probes,
        key=key,
        max_keys=max_keys,
        is_failure=is_failure,
        clock=clock,
        name=name,
    )
