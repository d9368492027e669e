"""The checklist that the tests of this directory go by: its numbers, and what was decided about them.

It was made from the CloudEvents documents: their event model, type system, extensions, JSON format and HTTP binding,
and what the drafts on webhooks and the Knative data plane add for senders and receivers. ``18-n`` is a hostile or
malformed request, ``18.1-x`` a hostile answer, ``decision 0.n`` a place where the documents contradict one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from string import ascii_lowercase


def rows(section: str, first: int, last: int) -> Iterator[str]:
    """Return the numbers of a section's hostile requests or decisions."""
    return (f"{section}{number}" for number in range(first, last + 1))


SECTIONS = {
    "EM": 25,  # event model
    "TS": 14,  # type system
    "EX": 12,  # documented extensions
    "JF": 25,  # JSON format
    "HB": 25,  # HTTP, binary mode
    "HS": 9,  # HTTP, structured mode
    "BA": 9,  # HTTP, batches
    "RR": 15,  # requests and responses
    "RT": 10,  # retries
    "DL": 8,  # dead letters
    "SD": 7,  # what an SDK offers
    "CQ": 27,  # CloudEvents SQL
    "SF": 14,  # subscription filters, and the manager of subscriptions
}
NUMBERS = frozenset(
    {
        *(f"{section}-{number:02}" for section, last in SECTIONS.items() for number in range(1, last + 1)),
        *rows("18-", 1, 100),
        *(f"18.1-{letter}" for letter in ascii_lowercase[:12]),
        *rows("decision 0.", 1, 16),
    }
)

#: What is not there yet, and what is missing. No test carries these numbers.
LATER = {
    "18-86": "the webhook handshake: OPTIONS that consents",
    "18-90": "authorization of requests: 401 without a bearer token",
    "18-91": "authorization of requests: 400 for a token in header and query",
    "18-92": "signed requests: 401 for a signature that is wrong or out of time",
    "18-93": "signed requests: 401 for a signature header that is malformed",
    "18-94": "signed requests: no binary mode, whose headers no signature covers",
    "18-95": "signed requests: a replayed request is taken and not handled again",
    "18-100": "a stage that drops expired events",
    "18.1-j": "the webhook handshake of the sender: CORS headers are no consent",
    "18.1-k": "the webhook handshake of the sender: an allowed rate of 0 is a refusal",
    "decision 0.5": "the webhook handshake: when the allowed rate is sent",
    **dict.fromkeys(rows("decision 0.", 11, 12), "the NATS binding"),
    "decision 0.13": "the subscriptions API",
    "SF-10": "not ours: the API of a manager of subscriptions; filters are what is here of it",
    "SF-11": "not ours: as SF-10, source and types of a subscription are for the producer",
    "SF-12": "not ours: as SF-10, there are no secrets to show",
    "SF-13": "not ours: as SF-10, the settings of a protocol",
    "SF-14": "not ours: as SF-10, the URLs of sinks",
}

#: Where the documents leave a choice, or we do otherwise than they recommend. The tests hold what is written here.
DECIDED = {
    "EM-05": "version 0.3 is refused, with an error class of its own",
    "EM-11": "a fragment in dataschema is accepted, without a warning",
    "EM-23": "nobody is warned of an event over 64 KiB",
    "TS-13": "a datetime whose offset has seconds is written in UTC",
    "TS-14": "a leap second is kept as text; as datetime it is the last microsecond before it",
    "EX-04": "a non-empty String; nothing yet makes sequences or compares them",
    "EX-05": "a Timestamp, never changed or removed; nothing yet drops what has expired",
    "EX-12": "a non-empty String of any level; nothing yet decides by it",
    "JF-18": "1e400 within data passes as it came; reading it is a DataError",
    "JF-19": "repeated members are refused in the envelope, not within the data",
    "JF-20": "a byte order mark is refused",
    "JF-21": "5000 digits are refused as attribute; within data they pass, and reading them is a DataError",
    "JF-23": "a lone surrogate is refused also within data",
    "HB-02": "ce-datacontenttype is refused, beside Content-Type and without it",
    "HB-09": "a percent sign that begins no escape is kept",
    "HB-12": "raw UTF-8 in a header is accepted, other bytes are refused",
    "HB-16": "malformed JSON data is taken; reading it is a DataError, the bytes stay at hand",
    "HB-17": "an empty body is no data, so text of length zero arrives as none",
    "HB-23": "attributes too large for headers are sent structured",
    "HS-04": "another event format is answered 415, never passed through",
    "HS-08": "a list of media types is 415 if it begins with an event format, else 400",
    "HS-09": "POST only, to one path",
    "BA-03": "only version 1.0 is read, so versions never mix",
    "BA-04": "batches are sent only with max_batch, which says that the destination asked for them",
    "BA-06": "a broken member refuses the whole batch, with its index, before any handler runs",
    "BA-08": "batches are split by count and bytes; an event that is too large travels alone",
    "RR-02": "204 when handled, 202 when stored, never an empty 200",
    "RR-06": "a handler runs to its end also when the peer has left",
    "RR-07": "a duplicate is handled like the first, unless the stage deduplicate stands in front",
    "RR-08": "Reject 422, Retry 503 or 429, a time limit 503, anything else 500",
    "RR-09": "a reply that nobody asked for is sent, and accepted",
    "RR-10": "OPTIONS is answered 405 with Allow; the sender never asks with it",
    "RR-14": "a coding that is not understood is 415 with Accept-Encoding",
    "RT-05": "dates are compared with the local clock",
    "RT-08": "limits on what is in flight, back-pressure and pauses; a circuit breaker is a stage",
    "DL-03": "no error data at all if there is no reason",
    "DL-04": "as Knative has it: 500, and the reason after dispatch error:",
    "DL-06": "the mode is that of the sink it is forwarded to",
    "RT-10": "a 2xx whose body is cut off: an Ack of send, Undelivered of request",
    "18-10": "as EM-05: 400",
    "18-20": "an unterminated quoted string is refused",
    "18-21": "as HB-09",
    "18-22": "as HB-12",
    "18-43": "415, as any coding but gzip and deflate",
    "18-50": "Allow names POST alone, as OPTIONS does nothing yet",
    "18-55": "a charset that is not UTF-8 is 415; UTF-16 that no charset names is no UTF-8: 400",
    "18-56": "as JF-20: 400",
    "18-58": "as JF-18",
    "18-60": "as JF-21",
    "18-85": "as HB-16: 2xx, or 422 from a handler that reads the data",
    "18-87": "405, as for any OPTIONS: no consent",
    "18-88": "405, as for any OPTIONS: no consent",
    "18-96": "as RR-07: 2xx each time",
    "CQ-03": "the first error ends the evaluation, so there is one at most",
    "CQ-07": "AND, OR and XOR are one level, from left to right",
    "CQ-13": "a number over 32 bits is 0 and a cast error, never the nearest one",
    "CQ-16": "overflow is 0 and a math error",
    "CQ-20": "a backslash escapes only the quote around the string; a doubled quote is a parse error",
    "CQ-21": "an attribute named as a keyword, or of digits alone, cannot be addressed",
    "CQ-25": "65536 characters, 8192 words and signs, 100 levels, 2**20 characters handled for an event",
    "CQ-26": "the characters that Unicode calls White_Space, no other",
    "SF-03": "names that no attribute can have are refused, too",
    "SF-06": "a filter has exactly one dialect, and its values are strings; anything else is refused",
    "SF-07": "a value that is no String is compared by its canonical text",
    "SF-08": "what is no expression is refused when the filter is made",
    "SF-09": "32 filters deep, 4096 in all, 65536 characters in a value",
    "decision 0.1": "as RR-02",
    "decision 0.2": "415 for what is not understood or no event at all, 400 for a broken event",
    "decision 0.3": "404 is retried, unless the policy says otherwise; 410 never",
    "decision 0.4": "a traceparent is never overwritten",
    "decision 0.6": "NOT 10 is false, without an error: an Integer is cast to a Boolean as by BOOL",
    "decision 0.7": "as CQ-07: the text of the specification, not its grammar",
    "decision 0.8": "any case is taken; attributes are looked up in lower case",
    "decision 0.9": "a sign after a value is an operator: 4-1 is 3",
    "decision 0.10": "false and a missingAttribute error",
    "decision 0.14": "base64, cut after 1024 characters; left out if there is no reason",
    "decision 0.15": "as EM-11",
    "decision 0.16": "as TS-14",
}
