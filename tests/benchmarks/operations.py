"""The codec's operations: a pool of different samples each, checked once when they are built."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import samples
from .clients import kit_event
from .process import SubjectError

KIT: Final = "kit"
OFFICIAL: Final = "official SDK"
PARSER: Final = "json.loads alone"

_POOL: Final = range(samples.POOL_SIZE)
_FEW: Final = range(8)


@dataclass(frozen=True)
class Operation:
    """Calls one function on every item of a pool, which makes `events` events."""

    function: Callable[[Any], object]
    pool: Sequence[Any]
    events: int

    def run(self) -> None:
        """Once over the pool."""
        function = self.function
        for item in self.pool:
            function(item)


Build = Callable[[], Operation]


def _over(function: Callable[[Any], object], pool: Sequence[Any], each: int = 1) -> Operation:
    return Operation(function, pool, len(pool) * each)


def _identity(event: Any) -> str:
    return str(event.get_id())


def _decoding(
    function: Callable[[Any], Any], pool: Sequence[Any], found: Callable[[Any], object] = _identity, each: int = 1
) -> Operation:
    """An operation whose first result must be event 0."""
    wanted = samples.small(0)["id"]
    if (got := found(function(pool[0]))) != wanted:
        raise SubjectError(f"decoded event {got!r} where {wanted!r} was sent")
    return _over(function, pool, each)


def _encoding(function: Callable[[Any], bytes], pool: Sequence[Any], expected: object, each: int = 1) -> Operation:
    """An operation whose first result must be the same JSON as expected."""
    if json.loads(function(pool[0])) != expected:
        raise SubjectError("encoded another JSON than the sample's")
    return _over(function, pool, each)


# --------------------------------------------------------------------------------------------------------- decoding


def _raw(number: int) -> tuple[tuple[tuple[bytes, bytes], ...], bytes]:
    """A binary request as a server gives it: pairs of bytes."""
    headers, body = samples.binary(number)
    pairs = samples.wire_headers(headers, body).items()
    return tuple((name.encode(), value.encode()) for name, value in pairs), body


def _kit_decode(body: Callable[[int], bytes], numbers: Sequence[int]) -> Build:
    def build() -> Operation:
        from cloudevents_kit import _json

        return _decoding(_json.decode, [body(number) for number in numbers])

    return build


def _kit_decode_data() -> Operation:
    from cloudevents_kit import _json

    def decode(body: bytes) -> Any:
        event = _json.decode(body)
        if event.data is None:
            raise SubjectError("no data")
        return event

    return _decoding(decode, [samples.structured(number) for number in _POOL])


def _kit_decode_binary() -> Operation:
    from cloudevents_kit import _http

    def decode(request: tuple[Any, bytes]) -> Any:
        return _http.decode(*request)

    return _decoding(decode, [_raw(number) for number in _POOL], lambda received: received[1][0].id)


def _kit_decode_batch() -> Operation:
    from cloudevents_kit import _json

    pool = [samples.batch(number) for number in _FEW]
    return _decoding(_json.decode_batch, pool, lambda events: events[0].id, samples.BATCH_SIZE)


def _official_decode(body: Callable[[int], bytes], numbers: Sequence[int]) -> Build:
    def build() -> Operation:
        from cloudevents.core.bindings.http import from_http_event

        from .official import message

        headers = {"content-type": samples.STRUCTURED_TYPE}
        return _decoding(lambda item: from_http_event(message(headers, item)), [body(number) for number in numbers])

    return build


def _official_decode_binary() -> Operation:
    from cloudevents.core.bindings.http import from_http_event

    from .official import message

    pool = [(samples.wire_headers(headers, body), body) for headers, body in map(samples.binary, _POOL)]
    return _decoding(lambda request: from_http_event(message(*request)), pool)


def _official_decode_batch() -> Operation:
    from .official import decode_batch

    pool = [samples.batch(number) for number in _FEW]
    return _decoding(decode_batch, pool, lambda events: _identity(events[0]), samples.BATCH_SIZE)


def _parse(body: Callable[[int], bytes], numbers: Sequence[int]) -> Build:
    return lambda: _decoding(json.loads, [body(number) for number in numbers], lambda event: event["id"])


# --------------------------------------------------------------------------------------------------------- encoding


def _kit_encode(sample: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> Build:
    def build() -> Operation:
        from cloudevents_kit import _json

        return _encoding(_json.encode, [kit_event(sample(number)) for number in numbers], sample(0))

    return build


def _kit_encode_binary() -> Operation:
    from cloudevents_kit import _http

    operation = _over(
        lambda event: _http.encode(event, "binary"), [kit_event(samples.small(number)) for number in _POOL]
    )
    _check_binary(_http.encode(operation.pool[0], "binary"))
    return operation


def _check_binary(message: tuple[Any, bytes]) -> None:
    headers, body = message
    wanted, payload = samples.binary(0)
    got = {name.lower(): value for name, value in dict(headers).items()}
    if any(got.get(name) != value for name, value in wanted.items()) or json.loads(body) != json.loads(payload):
        raise SubjectError(f"encoded other headers or another payload than the sample's: {got}")


def _kit_encode_batch() -> Operation:
    from cloudevents_kit import _json

    plain = [samples.small(number) for number in range(samples.BATCH_SIZE)]
    return _encoding(_json.encode_batch, [[kit_event(sample) for sample in plain]], plain, samples.BATCH_SIZE)


def _official_encode(sample: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> Build:
    def build() -> Operation:
        from cloudevents.core.bindings.http import to_structured_event

        from .official import build as official

        pool = [official(sample(number)) for number in numbers]
        return _encoding(lambda event: to_structured_event(event).body, pool, sample(0))

    return build


def _official_encode_binary() -> Operation:
    from cloudevents.core.bindings.http import to_binary_event

    from .official import build as official

    pool = [official(samples.small(number)) for number in _POOL]
    message = to_binary_event(pool[0])
    _check_binary((message.headers, message.body))
    return _over(to_binary_event, pool)


def _official_encode_batch() -> Operation:
    from .official import build as official
    from .official import encode_batch

    plain = [samples.small(number) for number in range(samples.BATCH_SIZE)]
    return _encoding(encode_batch, [[official(sample) for sample in plain]], plain, samples.BATCH_SIZE)


# --------------------------------------------------------------------------------------------------------- building


def _kit_build() -> Operation:
    from cloudevents_kit import Event

    def build(data: dict[str, Any]) -> object:
        return Event(type=samples.EVENT_TYPE, source="/orders", data=data)

    return _over(build, [samples.small(number)["data"] for number in _POOL])


def _official_build() -> Operation:
    from cloudevents.core.v1.event import CloudEvent

    def build(data: dict[str, Any]) -> object:
        return CloudEvent({"type": samples.EVENT_TYPE, "source": "/orders"}, data)

    return _over(build, [samples.small(number)["data"] for number in _POOL])


def _kit_build_full() -> Operation:
    return _over(kit_event, [samples.small(number) for number in _POOL])


def _official_build_full() -> Operation:
    from .official import build

    return _over(build, [samples.small(number) for number in _POOL])


def _kit_build_encode() -> Operation:
    from cloudevents_kit import _json

    return _over(lambda sample: _json.encode(kit_event(sample)), [samples.small(number) for number in _POOL])


def _official_build_encode() -> Operation:
    from cloudevents.core.bindings.http import to_structured_event

    from .official import build

    return _over(lambda sample: to_structured_event(build(sample)), [samples.small(number) for number in _POOL])


_LARGE: Final = samples.structured_large
CASES: Final[dict[str, dict[str, Build]]] = {
    "decode structured, 465 B": {
        OFFICIAL: _official_decode(samples.structured, _POOL),
        PARSER: _parse(samples.structured, _POOL),
        KIT: _kit_decode(samples.structured, _POOL),
    },
    "decode structured, text extensions": {
        OFFICIAL: _official_decode(samples.structured_texts, _POOL),
        KIT: _kit_decode(samples.structured_texts, _POOL),
    },
    "decode structured and read data": {
        OFFICIAL: _official_decode(samples.structured, _POOL),
        KIT: _kit_decode_data,
    },
    "decode binary": {OFFICIAL: _official_decode_binary, KIT: _kit_decode_binary},
    "decode batch of 100": {OFFICIAL: _official_decode_batch, KIT: _kit_decode_batch},
    "decode structured, 64 KiB": {
        OFFICIAL: _official_decode(_LARGE, _FEW),
        PARSER: _parse(_LARGE, _FEW),
        KIT: _kit_decode(_LARGE, _FEW),
    },
    "encode structured, 465 B": {
        OFFICIAL: _official_encode(samples.small, _POOL),
        KIT: _kit_encode(samples.small, _POOL),
    },
    "encode binary": {OFFICIAL: _official_encode_binary, KIT: _kit_encode_binary},
    "encode batch of 100": {OFFICIAL: _official_encode_batch, KIT: _kit_encode_batch},
    "encode structured, 64 KiB": {
        OFFICIAL: _official_encode(samples.large, _FEW),
        KIT: _kit_encode(samples.large, _FEW),
    },
    "build, id and time filled in": {OFFICIAL: _official_build, KIT: _kit_build},
    "build with all attributes": {OFFICIAL: _official_build_full, KIT: _kit_build_full},
    "build and encode structured": {OFFICIAL: _official_build_encode, KIT: _kit_build_encode},
}
