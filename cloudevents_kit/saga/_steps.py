"""What a saga is made of: steps, what they are given, and steps that ask a service by event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from cloudevents_kit._arguments import (
    check_callable,
    check_flag,
    check_kind,
    check_methods,
    check_not_negative,
    check_positive,
)
from cloudevents_kit._contract import Sink, as_handler, log, name_of, outcome_of
from cloudevents_kit._errors import CloudEventsError, Refusal, StageError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.router import Pattern


class SagaError(CloudEventsError):
    """A saga is stuck, since a compensation failed for good; was sent events, but never started; or is over."""


class InDoubt(Refusal):
    """Raised by a step of which nobody can tell whether it happened: it is tried again, with the same key.

    If that never becomes known, the step is compensated, too. TimeoutError means the same.
    """

    def __init__(self, reason: str = "in doubt", after: float | None = None) -> None:
        """Try again in ``after`` seconds, or when the policy says."""
        if after is not None:
            check_not_negative("after", after)
        super().__init__(reason, 503, retryable=True, after=after)


class Wait(Refusal):
    """Raised by a step that goes on later: it is run again when an event came, or after ``seconds``.

    That is no failure: it goes on with the same attempt, as often as it likes, until the deadline of the saga.
    """

    def __init__(self, seconds: float, *, in_doubt: bool = False) -> None:
        """Say whether the step may have done something ``in_doubt``, to be taken back if it comes to nothing."""
        check_positive("seconds", seconds)
        check_flag("in_doubt", in_doubt)
        super().__init__("waits", 503, retryable=True, after=seconds)
        self.seconds, self.in_doubt = seconds, in_doubt


class Unanswered(Wait):
    """Raised by a step that has asked: an attempt that has failed if no answer comes in time."""


def leaves_doubt(error: BaseException | None) -> bool:
    """Tell whether a step that raised ``error`` may have happened all the same."""
    if isinstance(error, StageError):
        return leaves_doubt(error.__cause__)
    if isinstance(error, BaseExceptionGroup):
        return any(map(leaves_doubt, error.exceptions))
    return isinstance(error, TimeoutError | InDoubt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a step is given."""

    event: Event
    """The event that started the saga."""
    key: str
    """Names this step of this saga, and nothing else, at every attempt: what is done once per key is done once."""
    results: Mapping[str, Any]
    """What the steps before have returned, by name, as JSON keeps it."""
    attempt: int = 1
    """Counts from 1."""
    in_doubt: bool = False
    """For a step: an attempt before may have done it. For a compensation: what it takes back may not have happened."""
    woken: bool = False
    """Whether it waited for an event, and one came; the attempt is that which waited."""
    events: tuple[Event, ...] = ()
    """What came for the saga since, the oldest first."""
    seen: int = 0
    """How many of these had come before this step began, or were seen by an attempt of it that failed."""
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When its first attempt began."""

    def make(self, /, *, type: str, source: str, **attributes: Any) -> Event:
        """Return an event to a service: its id is `key`, its cause and correlation are those of the saga's event.

        It is the same at every attempt, so that a service that tells copies acts once.
        """
        return self.event.reply(type=type, source=source, **{"id": self.key, "time": self.began, **attributes})


#: Does a step, or takes it back; what a step returns is its result, a JSON value. A plain function runs in a thread.
Work = Callable[[Context], Awaitable[Any]] | Callable[[Context], Any]


class Step:
    """One step of a saga."""

    def __init__(
        self, name: str, run: Work, compensate: Work | None = None, *, retry: RetryPolicy | None = None
    ) -> None:
        """Name a step.

        Args:
            name: names it in the journal, for as long as there are sagas that have begun with it.
            run: does it. Raises `Reject` if it cannot be done, `InDoubt` if nobody can tell; after any other error it
                is taken as not done.
            compensate: takes it back. None: there is nothing to take back.
            retry: how often either is tried; by default as the saga says.
        """
        check_kind("name", name, str, "a str")
        if not name.isprintable() or not 0 < len(name) <= 64 or {*name} & {"/", ":"}:
            raise ValueError(f"name: must be 1 to 64 printable characters without / and :, not {name!r}")
        if retry is not None:
            check_kind("retry", retry, RetryPolicy, "a RetryPolicy")
        self.name = name
        self.retry = retry
        self.run = _work("run", run)
        self.is_plain = self.run is not run
        self.compensate = None if compensate is None else _work("compensate", compensate)


def _work(argument: str, function: Any) -> Callable[[Context], Awaitable[Any]]:
    check_callable(argument, function)
    try:
        return as_handler(function)  # type: ignore[return-value]  # a handler is as good a function as any
    except TypeError:
        raise TypeError(f"{argument}: must be callable with one positional argument, the step's Context") from None


class _Requester(Protocol):
    async def request(self, event: Event, /) -> Result: ...


def ask(
    sink: Sink | _Requester,
    build: Callable[[Context], Event],
    *,
    read: Callable[[Event], Any] | None = None,
    answer: str | None = None,
    timeout: float | None = None,
) -> Callable[[Context], Awaitable[Any]]:
    """Return what does a step, or takes it back, by an event to a service; the answer's data is the result.

    A final refusal means that it was not done; any other failure of a request that may have arrived leaves it in
    doubt. The event is sent again with the same id, so let the service tell copies.

    Args:
        sink: where the service is: a `Sender`, a `Requests`, or any sink.
        build: makes the event, as ``lambda step: step.make(type=..., source=..., data=...)``.
        read: makes the result of the answer; raises `Reject` if the answer says that it was not done. Any other error
            leaves the step in doubt.
        answer: type, or pattern, of the events for the saga that are answers, if they came since it was asked, and do
            not name another step in causationid; by default, those that name this one there.
        timeout: seconds for an answer that comes later, as an event of its own, to `Saga.deliver`. None: the answer is
            the reply to the request, or nothing.
    """
    check_methods("sink", sink, "a Sink", "request" if hasattr(sink, "request") else "send")
    check_callable("build", build)
    if read is not None:
        check_callable("read", read)
    if timeout is not None:
        check_positive("timeout", timeout)
    pattern = None if answer is None else Pattern(answer)
    send: Callable[[Event], Awaitable[Result]] = getattr(sink, "request", None) or sink.send  # type: ignore[union-attr]

    def is_answer(event: Event, key: str) -> bool:
        cause = str(event.get("causationid", ""))
        if pattern is None:
            return cause == key
        of_another_step = cause != key and cause.startswith(key.rpartition("/")[0] + "/")
        return pattern.matches(event) and not of_another_step

    async def asked(step: Context) -> Any:
        found = next((event for event in step.events[step.seen :] if is_answer(event, step.key)), None)
        if found is None and not step.woken:
            event = build(step)
            found = _reply_of(await send(event if event.id == step.key else event.evolve(id=step.key)), timeout)
        if found is None and timeout is not None:
            raise Unanswered(timeout, in_doubt=True)
        return None if found is None else _read(found, read)

    return asked


def _read(answer: Event, read: Callable[[Event], Any] | None) -> Any:
    try:
        return answer.data if read is None else read(answer)
    except Refusal:
        raise
    except Exception as error:  # whatever it says, the service has acted
        log.exception("the answer to a step cannot be read: %s", name_of(answer))
        raise InDoubt(f"the answer cannot be read: {type(error).__name__}") from error


def _reply_of(result: Result, timeout: float | None) -> Event | None:
    match result:
        case Ack(reply=reply, reply_error=error):
            if error is not None and timeout is None:
                raise InDoubt(f"there is no usable answer: {error}")
            return reply
        case Nack(retryable=True, reason=reason, status=status, retry_after=after):
            raise InDoubt(f"answered {status}: {reason}", after)
        case Undelivered(possibly_delivered=True, reason=word, error=error):
            raise InDoubt(f"undelivered, {word}: {error}")
        case _:
            return outcome_of(result)  # type: ignore[return-value]  # which raises
