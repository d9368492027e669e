"""What came of an attempt, as the journal keeps it: its result, and in words what it failed with."""

from __future__ import annotations

import msgspec

from cloudevents_kit import _payload
from cloudevents_kit._errors import EventError, Refusal, kind_of
from cloudevents_kit._secrets import text_without_secrets
from cloudevents_kit.saga._journal import State
from cloudevents_kit.saga._steps import InDoubt

_LONGEST = 500
_LONGEST_ANSWER = 200


def kept(step: str, result: object) -> msgspec.Raw:
    """Return the result of ``step`` as JSON that means the same, or raise."""
    try:
        return msgspec.Raw(_payload.encode_json(result))
    except EventError as error:  # it was done, and the next step would not know what came of it
        hint = f" ({error.hint})" if error.hint else ""
        raise InDoubt(f"the result of step {step} {error.rule}{hint}") from error


def told(error: BaseException, cut: str = "") -> str:
    """Say in one line what ``error`` says; ``cut`` names the limit that ended the attempt."""
    kind = kind_of(error).rpartition(".")[2]
    text = ": ".join(part for part in (kind, _line(str(error), _LONGEST - len(kind) - len(cut) - 20)) if part)
    return f"{text} (cut off by {cut})" if cut else text


def answer(error: BaseException) -> str:
    """Say as much of it as anybody may know: what a step says who refuses, as any handler does."""
    if isinstance(error, Refusal) and not error.retryable:
        return _line(error.reason, _LONGEST_ANSWER)
    return "failed"


def errors(state: State) -> str:
    """Say what has failed for good."""
    found = [f"{name}: {act.error}" for name, act in state.acts.items() if act.status == "failed"]
    return "; ".join(found) or state.reason


def _line(text: str, longest: int) -> str:
    text = text_without_secrets(text[: 5 * _LONGEST]).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else " " for char in text[:longest]).strip()
