"""Regular expressions that cannot be made to take long: RE2, and bounds for the pattern, its program and the text."""

from __future__ import annotations

from collections.abc import Callable

from cloudevents_kit._extra import load

LONGEST_PATTERN = 1_000
_LARGEST_PROGRAM = 5_000
_MEMORY = 1 << 20
_MOST_STEPS = 20_000_000  # bytes times instructions: some 40 ms, should the engine have to go the slow way


def compile_pattern(pattern: str) -> Callable[[str], bool]:
    """Return what tells whether ``pattern`` is found in a text. Raises ValueError that says what is wrong with it.

    A text that is too long for the pattern is a ValueError as well.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise ValueError(f"a pattern has at most {LONGEST_PATTERN} characters")
    re2 = load("re2", "stages")
    options = re2.Options()
    options.log_errors, options.never_capture, options.max_mem = False, True, _MEMORY
    try:
        compiled = re2.compile(pattern, options)
    except UnicodeEncodeError:
        raise ValueError("is not Unicode text") from None
    except re2.error as error:
        said = error.args[0]
        why = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise ValueError(f"is no regular expression: {why}") from None
    if compiled.programsize > _LARGEST_PROGRAM:
        raise ValueError("is a pattern that takes too much: count less in it")
    search, longest = compiled.search, _MOST_STEPS // compiled.programsize

    def is_found(text: str) -> bool:
        raw = text.encode("utf-8", "replace")  # for bytes the engine need not count characters
        if len(raw) > longest:
            raise ValueError(f"the text is longer than this pattern may search: {longest} bytes")
        return search(raw) is not None

    return is_found
