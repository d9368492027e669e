"""How the stages call what users give them: a function may be async where its answer can be awaited, and only there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from inspect import isawaitable
from typing import Any, TypeVar

from cloudevents_kit._arguments import check_callable
from cloudevents_kit._contract import is_async
from cloudevents_kit._tasks import is_cancelled

T = TypeVar("T")


async def called(function: Callable[..., Any], *arguments: object) -> Any:
    """Return what ``function`` returns, or what that gives when it is awaited."""
    returned = function(*arguments)
    return await returned if isawaitable(returned) else returned


def check_plain(name: str, value: Any) -> None:
    """Take a function that answers at once. Raises TypeError for an async one, whose answer is always true."""
    check_callable(name, value)
    if is_async(value):
        raise TypeError(f"{name}: must be a plain function, not an async one")


def plain(answer: T) -> T:
    """Return the answer of such a function. Raises TypeError if it is to be awaited all the same."""
    if isawaitable(answer):
        if asyncio.iscoroutine(answer):
            answer.close()  # it would warn that nobody has awaited it
        raise TypeError("the function must be a plain one, not return an awaitable")
    return answer


def ends_task(error: BaseException) -> bool:
    """Tell whether ``error`` is to end the current task: it was cancelled, or the program ends."""
    if isinstance(error, asyncio.CancelledError):
        return is_cancelled()
    return isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
