"""What is made of a log as it grows: a name, handlers, and how events come to them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal, TypeVar

from cloudevents_kit._arguments import (
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_kind,
    check_name,
    check_positive,
)
from cloudevents_kit._contract import Handler, SyncHandler
from cloudevents_kit._event import Event
from cloudevents_kit._event_log._lag import Condition
from cloudevents_kit._hand_over import Taker, check_taker
from cloudevents_kit._retry import RetryPolicy
from cloudevents_kit.router import Router, bind

F = TypeVar("F", bound=Callable[..., Any])
Reset = Callable[[Any], Awaitable[object] | object]

_POLICY = RetryPolicy(attempts=10, initial=0.2, max_delay=30.0, deadline=None)
_LONGEST_NAME = 200


class Projection:
    """What is made of the events of a log, in their order: a view, or whatever else a handler does with them.

        orders = Projection("orders", transaction=True)

        @orders.on("com.example.order.created")
        async def created(event: Event, order: Order) -> None:
            await current_connection().execute(insert(ORDERS).values(id=order.id))

    Args:
        name: of its checkpoint, for good: another name begins at the first event.
        handlers: a handler for every event (a function, a `Router`, whatever `wrap` has made), or an object with
            methods marked with `cloudevents_kit.on`; left out: use `on`. Types that nobody handles are passed over.
            Those that use `current_connection` must be async.
        delivery: ``"background"``: while the log is open, a task hands over what comes, in one process at a time.
            ``"inline"``: within the transaction of the append, which fails if the handler does. Every process that
            appends needs the same inline projections.
        transaction: background: the handler's writes by `current_connection` and the checkpoint are one transaction,
            and so each event counts exactly once. Otherwise an event may come again after a crash. Inline has one.
        when: background: nothing is handed over before this holds, and then all that waits; `any_of`, `count`, `age`.
        batch: background: events between two checkpoints.
        retry: background: when an event that failed is tried again; the policy's ``deadline`` does not count. Until it
            has succeeded, those behind it wait. By default 10 attempts, beginning with 0.2 s and up to 30 s apart.
        dead_letter: background: gets an event after the last attempt, and at once if no other one can help: a sink or a
            function of the event and its error. When it has taken it, the event is passed over. Without it, or if it
            fails, the event is tried every ``max_delay`` seconds, for ever; `EventLog.retry` does so at once.
        reset: empties the view; called by `EventLog.rebuild` with the connection of its transaction, or, by a store in
            memory, None. Must be async where there is a connection. Where there is nothing to empty, it does nothing.
        lease: seconds after which another process may go on for one that has died. A handler, or the handlers for a
            batch in a transaction, have half of it; then they are cut off, and have failed.
        poll: seconds between two looks for what other processes have appended.
    """

    def __init__(
        self,
        name: str,
        handlers: Handler | SyncHandler | object | None = None,
        *,
        delivery: Literal["inline", "background"] = "background",
        transaction: bool = False,
        when: Condition | None = None,
        batch: int = 100,
        retry: RetryPolicy | None = None,
        dead_letter: Taker | None = None,
        reset: Reset | None = None,
        lease: float = 60.0,
        poll: float = 1.0,
    ) -> None:
        """Check the settings. Raises TypeError or ValueError naming one."""
        self.name = check_name("name", name, longest=_LONGEST_NAME)
        check_choice("delivery", delivery, ("inline", "background"))
        check_flag("transaction", transaction)
        for option, value in (("when", when), ("reset", reset)):
            if value is not None:
                check_callable(option, value)
        check_taker("dead_letter", dead_letter)
        if retry is not None:
            check_kind("retry", retry, RetryPolicy, "a RetryPolicy")
        check_positive("lease", lease)
        check_positive("poll", poll)
        self.inline = delivery == "inline"
        if self.inline and transaction:
            raise ValueError("transaction: inline has that of the append (leave it out)")
        self.transaction = transaction or self.inline
        self.when, self.batch, self.dead_letter = when, check_count("batch", batch), dead_letter
        self.policy = replace(retry or _POLICY, deadline=None)
        self.lease, self.poll, self._reset = lease, poll, reset
        if self.inline and any(one is not None for one in (when, retry, dead_letter)):
            raise ValueError("delivery: inline has no when, retry and dead_letter (the append fails, and waits for it)")
        self.counts = {"handled": 0, "failed": 0, "dead_lettered": 0, "dead_letter_failed": 0, "store_failed": 0}
        """What became of attempts in the background, in this process."""
        self._router: Router | None = None
        self.handler = self._handler(handlers)

    def _handler(self, given: Any) -> Handler:
        """Return what is called with each event."""
        if given is not None and not isinstance(given, type) and callable(given):
            return bind(given)
        self._router = Router(default=_pass_over)
        if given is not None:
            self._router.include(given)
        return self._router

    def on(self, pattern: str, *, source: str | None = None, subject: str | None = None) -> Callable[[F], F]:
        """Register the decorated function for the types of ``pattern``; see `cloudevents_kit.Router.on`."""
        if self._router is None:
            raise RuntimeError(f"projection {self.name}: has a handler for every event, so `on` would change nothing")
        return self._router.on(pattern, source=source, subject=subject)

    def check_reset(self) -> None:
        """Raise RuntimeError unless it is told how to empty the view."""
        if self._reset is None:
            raise RuntimeError(
                f"rebuild: projection {self.name} has no reset, and what its view has would be there twice "
                "(where there is nothing to empty, give it one that does nothing)"
            )

    async def reset(self, connection: Any) -> None:
        """Empty the view. Raises TypeError for a plain function that cannot have used ``connection``."""
        self.check_reset()
        done: Any = self._reset(connection)  # type: ignore[misc]
        if inspect.isawaitable(done):
            await done
        elif connection is not None:
            raise TypeError(f"reset: must be async in projection {self.name} (what a connection does is to be awaited)")


async def _pass_over(event: Event) -> None:
    """Do nothing: this one is for others."""
