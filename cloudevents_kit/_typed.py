"""From payload bytes to the type a handler asks for: dataclasses, TypedDicts, Structs by msgspec; models by pydantic.

pydantic is used if the type is one of its models, which means that it is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Hashable
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import msgspec

from cloudevents_kit._errors import DataError

T = TypeVar("T")
_SHOWN_ERRORS = 5


def convert(value: Any, kind: type[T], *, is_json: bool) -> T:
    """Turn ``value``, JSON bytes or else text or bytes, into ``kind``, or raise DataError naming the field."""
    decode = _decode_of(cast("Hashable", kind))
    if decode is None:
        model: T = _by_pydantic(value, kind, is_json=is_json)
        return model
    try:
        return decode(value) if is_json else msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError("does not fit the handler's type", hint=_without_values(error)) from error.__cause__
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DataError("is not valid JSON") from None
    except RecursionError:
        raise DataError("is nested too deeply") from None


@lru_cache(maxsize=1024)
def _decode_of(kind: Hashable) -> Callable[[bytes], Any] | None:
    """Return what reads JSON as ``kind``, None for a model; raise TypeError at once if nothing can."""
    if is_model(kind):
        return None
    decoder = msgspec.json.Decoder(kind, dec_hook=_inner_model)
    for custom in _custom_types(kind):
        if custom is not object and not is_model(custom):
            msg = f"{custom.__name__} is no dataclass, TypedDict, Struct or pydantic model"
            raise TypeError(msg)
    return decoder.decode


def _custom_types(kind: Any) -> list[type[Any]]:
    """Collect the classes in ``kind`` that msgspec itself cannot make."""
    from msgspec import inspect

    found: list[type[Any]] = []
    parts: list[Any] = [inspect.type_info(kind)]
    seen: set[int] = set()
    while parts:
        part = parts.pop()
        if isinstance(part, inspect.CustomType):
            found.append(part.cls)
        elif isinstance(part, tuple):
            parts.extend(part)
        elif isinstance(part, inspect.Type | inspect.Field) and id(part) not in seen:
            seen.add(id(part))  # a type may hold itself
            parts.extend(getattr(part, name) for name in part.__struct_fields__)
    return found


def _inner_model(kind: Any, value: object) -> Any:
    """Make a pydantic model that lies inside another type, by the rules for JSON; object stands for anything."""
    return value if kind is object else kind.model_validate_json(msgspec.json.encode(value))


def is_model(kind: Any) -> bool:
    """Tell whether ``kind`` is a pydantic model class."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)


def _by_pydantic(value: Any, kind: Any, *, is_json: bool) -> Any:
    import pydantic

    try:
        return kind.model_validate_json(value) if is_json else kind.model_validate(value)
    except pydantic.ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        names = _member_names(kind)
        fields = "; ".join(
            f"{'.'.join(_known(one['loc'], names)) or 'data'}: {one['type']}" for one in found[:_SHOWN_ERRORS]
        )
        raise DataError("does not fit the handler's type", hint=fields) from None


def _known(place: tuple[int | str, ...], names: frozenset[str]) -> list[str]:
    """Hide the names of members that only the peer knows."""
    return [str(part) if isinstance(part, int) or part in names else "[...]" for part in place]


@lru_cache(maxsize=1024)
def _member_names(kind: Any) -> frozenset[str]:
    """Collect the names of the members that a model and the models in it declare."""
    import pydantic

    try:
        schema = kind.model_json_schema()
    except pydantic.PydanticUserError:  # a type in it has no JSON schema
        return frozenset(kind.model_fields)
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", ()))


def allows_none(kind: Any) -> bool:
    """Tell whether ``kind`` is a union with None."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return get_origin(kind) in {Union, UnionType} and type(None) in get_args(kind)


def check_type(kind: Any) -> None:
    """Raise TypeError at once if data can never be decoded into ``kind``."""
    _decode_of(kind)


def _without_values(error: msgspec.ValidationError) -> str:
    """Keep what was expected and where; msgspec quotes values and keys of the peer, and errors of ``__post_init__``."""
    message = str(error)
    if error.__cause__ is None and message.startswith(("Expected `", "Object missing required field `")):
        return message
    what = "Unknown field" if message.startswith("Object contains unknown field `") else "Invalid value"
    _, at, place = message.rpartition(" - at ")
    return f"{what}{at}{place}" if _place(place) else what


_place = re.compile(r"`\$[^`]*`|`key` in `\$[^`]*`").fullmatch
