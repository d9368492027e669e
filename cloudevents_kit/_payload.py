"""An event's data as bytes and as Python values; what it is depends on its datacontenttype only, never on the bytes.

JSON is read and written by msgspec. Knows no attributes beside the content type, and no transport.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Any, Literal

import msgspec

from cloudevents_kit._errors import DataError, EventError
from cloudevents_kit._values import is_media_type, remember

JSON_TYPE = "application/json"
_SHOWN = 40

#: Where an event's payload comes from. JSON and TEXT are proven; BODY is whatever an HTTP body held.
ABSENT, JSON, TEXT, BYTES, BODY = range(5)

_charset = re.compile(r';[ \t]*charset=(?:"([^"]*)"|([^;\s]*))', re.IGNORECASE).search
_decode_json = msgspec.json.Decoder().decode
# Charsets by normalized name. Python looks any other name up as a module and remembers it for ever. UTF-7 is left out:
# it can spell lone surrogates.
_CHARSETS = {*aliases, *aliases.values(), "utf_8_sig", "koi8_u", "cp874"} - {"utf_7", "utf7", "u7", "unicode_1_1_utf_7"}


@dataclass(frozen=True, slots=True)
class Media:
    """What a datacontenttype says about the payload."""

    kind: Literal["json", "text", "bytes"]
    """How the payload is read as a Python value."""
    charset: str = "utf-8"
    """Codec of a text payload, as Python knows it; ``unknown``, which it does not know, for any other."""


_media: dict[str | None, Media] = {}


def media_of(content_type: str | None) -> Media:
    """Classify a content type; ``*/json`` and ``*/*+json`` in any case are JSON (JSON format, 3.1)."""
    found = _media.get(content_type)
    if found is None:
        found = _classify(content_type)
        remember(_media, content_type, found)
    return found


def _classify(content_type: str | None) -> Media:
    if content_type is None:
        return Media("bytes")
    if not is_media_type(content_type):
        raise EventError("datacontenttype", "must be a media type", hint=f"for example {JSON_TYPE}")
    main, _, sub = content_type.partition(";")[0].strip().lower().partition("/")
    if sub == "json" or sub.endswith("+json"):
        return Media("json")
    charset = _charset(content_type)
    name = normalize_encoding((charset[1] or charset[2]) if charset else "utf-8").lower()
    is_text = main == "text" or sub == "xml" or sub.endswith("+xml") or charset is not None
    return Media("text" if is_text else "bytes", name if name in _CHARSETS else "unknown")


class _HoldsJson(dict[str, bool]):
    """Tells, and remembers, whether a text is a valid content type of JSON."""

    def __missing__(self, content_type: str) -> bool:
        found = is_media_type(content_type) and media_of(content_type).kind == "json"
        remember(self, content_type, found)
        return found


holds_json = _HoldsJson()


def decode_json(raw: bytes) -> Any:
    """Read JSON text; raise DataError for anything that RFC 8259 does not allow or Python cannot hold."""
    try:
        return _decode_json(raw)
    except UnicodeDecodeError:
        rule = "is not UTF-8"
    except RecursionError:
        rule = "is nested too deeply"
    except msgspec.ValidationError:
        rule = "holds a number out of range"
    except msgspec.DecodeError:
        rule = "is not valid JSON"
    raise DataError(rule) from None


def decode_text(raw: bytes, charset: str) -> str:
    """Read text in ``charset``; raise DataError if it is unknown or the bytes do not fit."""
    try:
        return raw.decode(charset)
    except (UnicodeError, LookupError):
        raise DataError("is not text in the charset of its datacontenttype") from None


def is_json(form: int, content_type: str | None) -> bool:
    """Tell whether a payload is read as JSON; without a content type only what came as JSON is."""
    return form == JSON or (content_type is not None and media_of(content_type).kind == "json")


def read(raw: bytes, form: int, content_type: str | None) -> Any:
    """Return the Python value of a payload that is present."""
    if is_json(form, content_type):
        return decode_json(raw)
    media = media_of(content_type)
    return decode_text(raw, media.charset) if media.kind == "text" else raw


def write(data: object, content_type: str | None) -> tuple[bytes, int]:
    """Return the payload bytes of ``data`` and their form; raise EventError for data that the type cannot carry.

    bytes are taken as they are. With a JSON content type, or none, anything else becomes JSON text, a str too.
    """
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), BYTES
    media = media_of(content_type)
    if content_type is None or media.kind == "json":
        return encode_json(data), JSON
    if isinstance(data, str):
        return encode_text(data, media.charset), TEXT
    hint = f"datacontenttype {content_type.partition(';')[0]!r} carries str or bytes"
    raise EventError("data", "must be str or bytes for this datacontenttype", hint=hint, value_type=type(data))


def encode_text(text: str, charset: str) -> bytes:
    """Write ``text`` in ``charset``; raise EventError if it is unknown or lacks a character."""
    try:
        return text.encode(charset)
    except (UnicodeError, LookupError):
        hint = "use charset=utf-8, or give bytes"
        raise EventError("data", "cannot be written in the charset of its datacontenttype", hint=hint) from None


def encode_json(data: object) -> bytes:
    """Write ``data`` as JSON text that means exactly what ``data`` says, or raise EventError.

    Dataclasses, msgspec Structs, TypedDicts, pydantic models, enums, UUIDs and datetimes are written as msgspec does.
    """
    try:
        raw = _encode_json(data)
        if _decode_json(raw) != data:
            _reject_lossy(data, "data")
            _reject_lossy(msgspec.to_builtins(data, builtin_types=_LOSSY, enc_hook=_model), "data")
    except RecursionError:
        raise EventError("data", "is nested too deeply, or holds itself", hint="flatten it") from None
    except UnicodeEncodeError:
        hint = "give bytes for text that is not Unicode"
        raise EventError("data", "holds a lone surrogate", hint=hint) from None
    except EventError:
        raise
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        _reject_lossy(data, "data")
        hint = error.args[0] if isinstance(error, _Unwritable) else f"{type(error).__name__} was raised"
        raise EventError("data", "cannot be written as JSON", hint=hint, value_type=type(data)) from error
    return raw


class _Unwritable(TypeError):
    """Something in the data is of a type that nothing can write."""


def _model(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)
    if dump is None or isinstance(value, type):
        raise _Unwritable(f"{type(value).__name__} is no JSON value, dataclass, Struct or model")
    return dump(mode="json")


_encode_json = msgspec.json.Encoder(enc_hook=_model).encode
_LOSSY = (bytes, bytearray, memoryview, Decimal)


def _reject_lossy(value: object, path: str) -> None:
    """Raise EventError for what a JSON writer would silently turn into something else."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                hint = "members of a JSON object have names: use str(key)"
                raise EventError("data", f"has a key at {path} that is no string", hint=hint, value_type=type(key))
            _reject_lossy(item, f"{path}.{key}" if key.isidentifier() and len(key) <= _SHOWN else f"{path}[...]")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _reject_lossy(item, f"{path}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        hint = "use None, or text"
        raise EventError("data", f"holds NaN or Infinity at {path}, which JSON cannot carry", hint=hint)
    elif isinstance(value, _LOSSY):
        hint = "give bytes as the whole data, or base64 text" if not isinstance(value, Decimal) else "use str or float"
        raise EventError("data", f"holds a value at {path} that JSON cannot carry", hint=hint, value_type=type(value))
    elif isinstance(value, set | frozenset):
        raise EventError("data", f"holds a set at {path}", hint="sets have no order: use a list")


def canonical(raw: bytes) -> bytes:
    """Write JSON text in one fixed way, so that equal values have equal bytes. Raises DataError."""
    return json.dumps(decode_json(raw), sort_keys=True, ensure_ascii=True).encode("ascii")
