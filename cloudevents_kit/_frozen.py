"""An event as bytes from which it comes back exactly: its attributes, their types and order, the bytes of its data.

The JSON format would do for most events, but trims white space around JSON, and turns what cannot be read as its
content type says into bytes. Knows no stores.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from cloudevents_kit import _json, _payload
from cloudevents_kit._event import Event


class _Frozen(msgspec.Struct):
    attributes: dict[str, str | bool | int]
    data: bytes
    form: Annotated[int, msgspec.Meta(ge=_payload.ABSENT, le=_payload.BODY)]


def freeze(event: Event) -> object:
    """Return what msgspec is to write for ``event``: the hook of an encoder that knows everything else."""
    return {"attributes": event._attributes, "data": event._raw, "form": event._form}


def thaw(_: type[Event], value: object) -> Event:
    """Return the event of what `freeze` returned, written and read again: the hook of a decoder."""
    frozen = msgspec.convert(value, _Frozen)
    return Event._checked(frozen.attributes, frozen.data, frozen.form)


_encode = msgspec.json.Encoder(enc_hook=freeze).encode
_decode = msgspec.json.Decoder(Event, dec_hook=thaw).decode
_MARK = b'{"attributes":{'


def pack(event: Event) -> bytes:
    """Write ``event``: in the JSON format if that gives it back exactly, so that others can read it, too."""
    if event._form in {_payload.ABSENT, _payload.JSON}:
        return _json.encode(event)
    return _encode(event)


def unpack(packed: bytes) -> Event:
    """Read what `pack` wrote. Raises ValueError if it is something else."""
    if not packed.startswith(_MARK):
        return _json.decode(packed)
    try:
        return _decode(packed)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"is no event: {error}") from error
