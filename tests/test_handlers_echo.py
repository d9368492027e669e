"""A handler's exception text, a path, a header or the body never appears in an answer, and data not in the log."""

import json
from typing import Any, Literal

import msgspec
import pydantic
import pytest

from cloudevents_kit import Event
from tests.support.servers import (
    KINDS,
    SECRET,
    Kind,
    ask,
    assert_no_secret,
    binary,
    outcome,
    raising,
    served,
    structured,
)

pytestmark = pytest.mark.parametrize("kind", KINDS)


ANNOTATIONS: dict[str, Any] = {
    "color": Literal["red", "blue"],
    "when": float | None,
    "tags": list[int],
    "map": dict[str, int],
}
HOSTILE: tuple[dict[str, Any], ...] = (
    {"color": SECRET},
    {"when": SECRET},
    {"tags": [1, SECRET]},
    {"map": {SECRET: "x"}},
    {SECRET: 1},
    {f"secret`{SECRET} - at `$": 1},
)


@pytest.mark.parametrize("library", ["msgspec", "pydantic"])
async def test_data_that_does_not_fit_does_not_come_back(
    kind: Kind, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    wanted: Any
    if library == "msgspec":
        fields = [(name, annotation, None) for name, annotation in ANNOTATIONS.items()]
        wanted = msgspec.defstruct("Wanted", fields, forbid_unknown_fields=True)
    else:
        strict = pydantic.ConfigDict(extra="forbid")
        optional: Any = {name: (annotation, None) for name, annotation in ANNOTATIONS.items()}
        wanted = pydantic.create_model("Wanted", __config__=strict, **optional)

    async def read(event: Event) -> None:
        event.as_type(wanted)

    async with served(kind, read) as port:
        for data in HOSTILE:
            for sent in (structured(data=data), binary("Content-Type: application/json", body=json.dumps(data))):
                answer = await ask(port, sent)
                assert answer.status == 422, data
                assert_no_secret(answer)
    assert "secret" not in caplog.text


REFUSED: tuple[tuple[str, ...], ...] = (
    (f"ce-time: {SECRET}",),
    (f"ce-datacontenttype: {SECRET}",),
    (f"ce-dataschema: {SECRET}",),
    (f"Content-Encoding: {SECRET}",),
    (f"Content-Type: {SECRET}/",),
    (f"Content-Type: application/cloudevents+{SECRET}",),
    (f"ce-subject: %FF{SECRET}",),
    (f'ce-subject: "{SECRET}',),
    (f"ce-x: {SECRET}", f"ce-x: {SECRET}"),
)


async def test_an_event_that_is_refused_does_not_come_back(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    async with served(kind, raising(AssertionError())) as port:
        for lines in REFUSED:
            answer = await ask(port, binary(*lines))
            assert 400 <= answer.status < 500, lines
            assert_no_secret(answer)
    assert "secret" not in caplog.text


async def test_the_path_that_was_asked_for_does_not_come_back(kind: Kind) -> None:
    answer = await outcome(
        kind, raising(AssertionError()), binary().replace(b"POST / ", f"POST {SECRET}?x={SECRET} ".encode())
    )
    assert answer.status == 404
    assert_no_secret(answer)
