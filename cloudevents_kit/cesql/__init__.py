"""CloudEvents SQL 1.0: an expression over the attributes of an event, compiled once, evaluated often.

``parse(text)`` gives an `Expression`; ``.matches(event)`` tells whether it is true, ``.evaluate(event)`` gives its
value and what went wrong. The text goes through `_lexer` (words and signs), `_parser` (a tree of `_syntax`) and
`_compiler` (closures). Nothing here knows the data of an event, transports or asyncio.
"""

from cloudevents_kit.cesql._budget import MAX_LENGTH
from cloudevents_kit.cesql._errors import EvaluationError, Kind, ParseError
from cloudevents_kit.cesql._expression import Expression, parse
from cloudevents_kit.cesql._functions import Functions

__all__ = ["MAX_LENGTH", "EvaluationError", "Expression", "Functions", "Kind", "ParseError", "parse"]
