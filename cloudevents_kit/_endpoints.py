"""What a receiver shows beside its events: functions that are read with GET and answer with JSON."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from cloudevents_kit import _answer
from cloudevents_kit._answer import Answer
from cloudevents_kit._arguments import check_callable, check_kind, check_path
from cloudevents_kit._contract import log
from cloudevents_kit._errors import Refusal
from cloudevents_kit._result import Nack

#: Gets the parameters of the query, and returns what is shown, or raises a `Refusal`. Sync, not blocking, or async.
Endpoint = Callable[[Mapping[str, str]], object]
Endpoints = Mapping[str, Endpoint]

PROBES: Final = ("/healthz", "/readyz")
_MOST_PARAMETERS = 20
_NO_PATH = "endpoints: need the path of the events beside them, since without one every path is taken"


def check_endpoints(endpoints: Endpoints | None, events: str | None) -> Endpoints:
    """Return a copy; ``events`` is the path where those come in. Raises TypeError or ValueError."""
    if endpoints is None:
        return {}
    check_kind("endpoints", endpoints, Mapping, "a dict of functions by path")
    for path, function in endpoints.items():
        check_path(path, "endpoints")
        check_callable("endpoints", function)
        if path in PROBES or events in {None, path}:
            raise ValueError(f"endpoints: {path}: there is something else at this path" if events else _NO_PATH)
        if "{" in path:  # mounted in aiohttp, it would be a pattern
            raise ValueError(f"endpoints: {path}: a path has no variable parts (use parameters of the query)")
    return dict(endpoints)


async def read(endpoint: Endpoint, query: str, seconds: float) -> Answer:
    """Call ``endpoint`` for ``query``, as it came; whatever goes wrong, the peer gets one line, the log the rest."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        return _answer.problem(400, "the query cannot be read")
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        return _answer.problem(400, "the query has a parameter twice")
    try:
        found: Any = endpoint(parameters)
        if inspect.isawaitable(found):
            async with asyncio.timeout(seconds):
                found = await found
        body = msgspec.json.encode(found) + b"\n"
    except Refusal as error:
        refused = Nack(status=error.status, reason=error.reason, retryable=error.retryable, retry_after=error.after)
        return _answer.respond(refused, "structured")
    except TimeoutError as error:
        log.warning("an endpoint ran out of time", exc_info=error)
        return _answer.problem(503, "the endpoint ran out of time")
    except Exception as error:  # noqa: BLE001 - whatever it is, it is for the log alone
        log.error("an endpoint failed", exc_info=error)
        return _answer.problem(500, "the endpoint failed")
    return Answer(200, {"Content-Type": "application/json"}, body)
