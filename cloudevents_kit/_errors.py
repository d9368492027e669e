"""Every exception of the kit, in one tree.

    Exception
    ├── CloudEventsError
    │   ├── EventError (also ValueError)       an event, built or received, breaks a rule
    │   │   ├── UnsupportedVersion             specversion is not 1.0
    │   │   ├── DataError                      the data does not fit its content type or the handler's type
    │   │   └── BindingError                   a message holds no event that can be read at all
    │   ├── DeliveryError                      raised by ``result.raise_for_outcome()``
    │   ├── StageError                         a processing stage failed; its cause is what went wrong
    │   ├── StoreError                         a store cannot be opened, or not be used now
    │   ├── event_log.Conflict                 a stream is at another version than an append expected
    │   ├── saga.SagaError                     a saga is stuck: what it did can be neither completed nor taken back; or
    │   │                                      it is over, and cannot be resumed
    │   ├── cesql.ParseError (also ValueError)     a text is no CloudEvents SQL
    │   ├── filters.FilterError (also ValueError)  a subscription filter breaks a rule
    │   └── stages.RuleError (also ValueError)     a rule, or a set of them, cannot be used
    └── Refusal                                raised by a handler to choose the answer
        ├── Reject                             4xx: never send this event again
        ├── Retry                              503 or alike: send it again
        ├── saga.InDoubt                       raised by a step of which nobody can tell whether it happened
        └── saga.Wait                          raised by a step that goes on later, or with an event to come

Wrong use of the API is a plain ``TypeError`` or ``ValueError``. Nothing here knows HTTP libraries or events.
"""

from __future__ import annotations

from typing import Any, Literal

from cloudevents_kit._arguments import check_count, check_kind, check_not_negative


class _Portable(Exception):
    """Can be copied and pickled, and so sent to another process, whatever its constructor takes."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args), self.__dict__


def _restore(kind: type[_Portable], args: tuple[Any, ...]) -> _Portable:
    return kind.__new__(kind, *args)


class CloudEventsError(_Portable):
    """Root of what this package raises about events and their delivery."""


class EventError(CloudEventsError, ValueError):
    """An event breaks a rule of the CloudEvents specification.

    The message names the attribute and the rule, never the offending value. ``status`` is the HTTP status that tells
    the sender of such an event. ``key`` is the (source, id) of the event to blame, once an event was read and turned
    out not to hold what was asked for.
    """

    key: tuple[str, str] | None = None
    status = 400

    def __init__(self, attribute: str, rule: str, *, hint: str = "", value_type: type | None = None) -> None:
        """Describe the broken ``rule`` of ``attribute``; ``hint`` says how to mend it."""
        self.attribute = attribute
        self.rule = rule
        self.hint = hint
        self.value_type = value_type
        got = f", not {value_type.__name__}" if value_type is not None else ""
        subject = f"{attribute}: " if attribute else ""
        super().__init__(f"{subject}{rule}{got}" + (f" ({hint})" if hint else ""))


class UnsupportedVersion(EventError):
    """The specversion is not "1.0"."""


class DataError(EventError):
    """An event's data cannot be read by its datacontenttype, or as the type that was asked for."""

    def __init__(self, rule: str, *, hint: str = "", value_type: type | None = None) -> None:
        """Describe the broken ``rule`` of the event's data."""
        super().__init__("data", rule, hint=hint, value_type=value_type)


class BindingError(EventError):
    """A message that holds no event which could be read; no ``attribute`` is to blame."""

    def __init__(self, status: int, rule: str) -> None:
        """Refuse with ``status``, a 4xx."""
        super().__init__("", rule)
        self.status = status


class DeliveryError(CloudEventsError):
    """An event was not acknowledged; ``result`` is the Nack or Undelivered that says why.

    ``attempts`` is how often it was sent: as the result lists, and before that by an outbox, as far as is known.
    """

    def __init__(self, result: Any, text: str) -> None:
        """Carry ``result``; ``text`` tells it in one line."""
        self.result = result
        self.attempts = max(1, len(result.attempts))
        super().__init__(text)


class StageError(CloudEventsError):
    """A processing stage failed while it had an event; ``__cause__`` is the exception that says why.

    A stage makes a new one each time, and never touches the cause. The text names the stages, not the event's data.
    """

    def __init__(
        self,
        path: tuple[str, ...],
        key: tuple[str, str],
        *,
        elapsed: float,
        kind: Literal["failed", "timeout", "exhausted"] = "failed",
        attempts: int = 1,
    ) -> None:
        """Say which stage failed, with what event, and how.

        Args:
            path: names of the stages, outermost first; the last one failed.
            key: (source, id) of the event.
            elapsed: seconds that the failed stage had spent on it.
            kind: ``timeout`` for a time limit of the stage; ``exhausted`` if one gave up repeating: ``elapsed`` and
                ``attempts`` are those of the one that gave up, and the path goes on to where its last attempt failed.
            attempts: how often the stage had tried.
        """
        self.path = path
        self.key = key
        self.elapsed = elapsed
        self.kind = kind
        self.attempts = attempts
        tries = f" and {attempts} attempts" if attempts > 1 else ""
        super().__init__(f"stage {' > '.join(path)}: {kind} after {elapsed:.3f} s{tries}")

    def within(self, name: str) -> StageError:
        """Return the same error as it looks from the stage ``name`` around it. Raise it from this one's cause."""
        return StageError((name, *self.path), self.key, elapsed=self.elapsed, kind=self.kind, attempts=self.attempts)


def cause_of(error: BaseException) -> BaseException:
    """Return what is behind ``error``: a `StageError` only says where it happened."""
    while isinstance(error, StageError) and error.__cause__ is not None:
        error = error.__cause__
    return error


class StoreError(CloudEventsError):
    """A store cannot be opened, or cannot be used now. The text says what to do, and tells no password.

    What the call was to write is not stored for sure; it may be.
    """


class Refusal(_Portable):
    """What a handler raises to refuse an event with a status of its choice. Raise `Reject` or `Retry`."""

    def __init__(self, reason: str, status: int, *, retryable: bool, after: float | None = None) -> None:
        """Refuse with ``status``; ``after`` is in seconds."""
        check_kind("reason", reason, str, "a str, one line for the peer")
        self.reason = reason
        self.status = status
        self.retryable = retryable
        self.after = after
        super().__init__(reason)


def kind_of(error: BaseException) -> str:
    """Name the type of ``error`` in a report: the kit's own, and Python's, by the name alone."""
    kind = type(error)
    if isinstance(error, Refusal) and kind is Refusal:  # of an answer to what was sent on
        return "Retry" if error.retryable else "Reject"
    if kind.__module__.partition(".")[0] in {"builtins", "cloudevents_kit"}:
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"


class Reject(Refusal):
    """This event will never be accepted: answer ``status`` (400 to 499, by default 422), not to be retried.

    ``reason`` is sent to the peer: say nothing secret.
    """

    def __init__(self, reason: str = "rejected", status: int = 422) -> None:
        """Raise ValueError if ``status`` is not one that a sender takes as final."""
        check_count("status", status)
        if not 400 <= status <= 499 or status in RETRYABLE_4XX:
            msg = (
                f"status: Reject takes a final 4xx status, not {status} (raise Retry for one that is to be sent again)"
            )
            raise ValueError(msg)
        super().__init__(reason, status, retryable=False)


class Retry(Refusal):
    """Not now: answer ``status`` (by default 503) with Retry-After, so that the sender sends the event again.

    ``after`` is in seconds. ``reason`` is sent to the peer: say nothing secret.
    """

    def __init__(self, after: float | None = None, reason: str = "try again later", status: int = 503) -> None:
        """Raise ValueError if ``status`` is not one that a sender retries, or ``after`` is negative."""
        check_count("status", status)
        if status not in RETRYABLE_4XX and not 500 <= status <= 599:
            msg = f"status: Retry takes 404, 408, 409, 425, 429 or 5xx, not {status} (raise Reject for a final answer)"
            raise ValueError(msg)
        if after is not None:
            check_not_negative("after", after)
        super().__init__(reason, status, retryable=True, after=after)


#: 4xx statuses that a sender sends again by default (Knative data plane contract, RFC 9110).
RETRYABLE_4XX = frozenset({404, 408, 409, 425, 429})
