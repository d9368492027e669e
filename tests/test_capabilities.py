"""The capabilities of the core, check by check, with the tests that hold them; and those checks no other file holds.

A key is the number of a capability and of the acceptance check below it.
"""

import ast
import re
from pathlib import Path
from typing import Any, Literal

import pytest

from cloudevents_kit import Event, Receiver, RetryPolicy, Sender
from tests.support.programs import run
from tests.support.raw import request, without
from tests.support.servers import BATCH, HEAD, KINDS, STRUCTURED, Kind, ask, problem, served

TRUTH_TABLE = "truth_table::the_result_tells_what_happened"

TESTED: dict[str, tuple[str, ...]] = {
    # Event model, defaults, validation
    "K-E1.1": ("event::type_and_source_are_enough",),
    "K-E1.2": (
        "event::what_is_invalid_cannot_be_built",
        "sender_events::an_event_of_the_official_sdk_that_is_broken_makes_no_request",
    ),
    "K-E1.3": ("event::two_branches_change_their_copies_and_nothing_else",),
    # HTTP modes
    "K-E2.1": ("capabilities::an_event_arrives_as_it_was_sent_in_every_mode",),
    "K-E2.2": (
        "handlers_batch::a_batch_tells_per_event_which_one_failed",
        "handlers_batch::a_batch_with_a_broken_member_is_refused_with_its_index_before_any_handler_runs",
    ),
    "K-E2.3": (
        "capabilities::what_is_no_event_is_refused_and_the_handler_is_not_called",
        "receiver::events_come_by_post_only",
        "receiver::a_body_over_the_limit_is_413_and_at_the_limit_is_taken",
    ),
    # Typed data
    "K-E3.1": (
        "router_data::data_is_decoded_into_the_annotation",
        "router_data::data_that_does_not_fit_is_refused_and_the_handler_does_not_run",
        "handlers::data_that_does_not_fit_is_422_and_names_the_field",
    ),
    "K-E3.2": ("router_data::annotations_may_be_text",),
    # Correlation, causation, trace
    "K-E4.1": ("sender_events::what_a_handler_sends_names_its_cause",),
    "K-E4.2": ("sender_events::a_nested_dispatch_gives_the_outer_context_back",),
    # Results
    "K-C1.1": (TRUTH_TABLE, "result::exactly_one_predicate_is_true_and_the_outcome_says_the_same"),
    "K-C1.2": (TRUTH_TABLE, "sender::a_refusal_says_why_in_one_line"),
    "K-C1.3": (TRUTH_TABLE,),
    "K-C1.4": (TRUTH_TABLE, "sender::a_time_out_without_data_may_have_delivered_all_the_same"),
    "K-C1.5": (TRUTH_TABLE,),
    "K-C1.6": (TRUTH_TABLE,),
    "K-C1.7": ("result::a_result_without_arguments_can_be_shown",),
    # Deadlines and cancellation
    "K-C2.1": (
        "sender_retry::a_silent_peer_holds_a_send_no_longer_than_its_timeout",
        "sender_retry::the_deadline_holds_over_all_attempts",
    ),
    "K-C2.2": ("cancellation::in_backoff", "cancellation::in_a_real_backoff"),
    # Retries
    "K-C3.1": ("sender_retry::a_peer_that_is_always_busy_gets_every_attempt_with_growing_gaps",),
    "K-C3.2": ("retry_policy::a_wait_stays_within_its_bounds", "retry_policy::a_seed_makes_the_jitter_repeatable"),
    "K-C3.3": (TRUTH_TABLE, "sender_retry::retry_after_beyond_the_deadline_ends_it_at_once"),
    "K-C3.4": (TRUTH_TABLE, "sender_retry::a_peer_that_comes_up_later_gets_the_event"),
    "K-C3.5": ("sender_retry::what_may_have_arrived_is_sent_again_only_if_the_policy_says_so",),
    "K-C3.6": ("retry_policy::a_policy_that_makes_no_sense_is_refused_by_name",),
    # Request and reply
    "K-C4.1": ("sender::a_reply_is_the_event_that_the_peer_answers_with",),
    "K-C4.2": ("sender::a_strict_request_takes_only_its_own_reply",),
    # Batches
    "K-C5.1": (
        "sender_batch::batches_are_split_by_count_and_results_keep_the_order",
        "sender_batch::a_batch_that_fails_fails_only_its_own_events",
    ),
    # Connections, compression
    "K-C8.1": (
        "sender_session::sends_share_few_connections",
        "sender_session::a_session_of_the_caller_is_used_and_never_closed",
    ),
    "K-C8.2": (
        "sender::bodies_over_the_threshold_are_compressed",
        "sender::the_receiver_of_the_kit_reads_compressed_events",
        "sender::the_receiver_of_the_kit_refuses_a_bomb_before_it_goes_off",
        "receiver::a_compressed_body_that_grows_over_the_limit_is_413",
    ),
    # Starting and stopping
    "K-S1.1": ("receiver_lifecycle::port_0_takes_a_free_port_and_the_first_send_succeeds_at_once",),
    "K-S1.2": ("receiver_lifecycle::a_taken_port_raises_oserror_and_leaves_nothing_open",),
    "K-S1.3": (
        "receiver_lifecycle::a_start_and_a_stop_at_once_both_return_and_nothing_listens",
        "receiver_lifecycle::a_stop_twice_at_once_and_before_a_start_is_harmless",
    ),
    "K-S1.4": ("receiver_lifecycle::another_handler_is_another_receiver_on_the_same_port",),
    # From outcomes to answers
    "K-S2.1": (
        "handlers::none_is_204_without_a_body",
        "handlers::an_event_is_200_in_binary_mode_for_a_binary_request",
        "handlers::an_event_is_200_in_structured_mode_for_a_structured_request",
        "handlers::accepted_is_202_without_a_body",
    ),
    "K-S2.2": ("handlers::anything_else_is_500_with_the_traceback_in_the_log_only",),
    "K-S2.3": (
        "handlers::reject_is_its_4xx_with_the_reason",
        "handlers::retry_is_503_with_retry_after_in_whole_seconds",
    ),
    "K-S2.4": ("handlers::data_that_does_not_fit_is_422_and_names_the_field",),
    # Acknowledged only once handled or stored
    "K-S3.1": ("receiver_limits::a_handler_that_fails_is_a_nack_for_the_sender",),
    "K-S3.2": ("receiver_limits::accepted_is_answered_only_when_the_event_is_in_the_queue",),
    # Draining
    "K-S4.1": (
        "receiver_lifecycle::a_stop_refuses_new_connections_and_answers_what_is_in_flight_before_closing_stages",
    ),
    "K-S4.2": ("receiver_lifecycle::a_handler_that_does_not_end_is_cut_off_after_the_grace_and_the_stop_says_so",),
    # Routing
    "K-S5.1": (
        "router::one_handler_runs_and_it_is_the_most_specific",
        "router::an_event_that_nobody_wants_is_refused_logged_and_counted",
        "router::an_event_that_nobody_wants_may_be_taken_but_not_in_silence",
    ),
    "K-S5.3": (
        "router_classes::an_override_takes_the_place_of_the_marked_method",
        "router_classes::two_handlers_of_one_class_for_one_pattern_are_an_error_and_nothing_is_registered",
    ),
    # Stages
    "K-S9.1": (
        "contract::the_first_stage_is_outermost",
        "contract::a_stage_that_neither_calls_nor_raises_has_handled_the_event",
        "contract::a_plain_function_is_a_stage_too",
    ),
    # Ownership
    "K-O6.1": (
        "receiver_lifecycle::a_part_that_does_not_open_closes_those_before_it_and_all_errors_are_told",
        "receiver_lifecycle::parts_that_do_not_close_keep_no_other_from_closing_and_all_errors_are_told",
        "capabilities::a_part_that_fails_leaves_nothing_open_and_no_warning",
    ),
}
#: How many acceptance checks each capability has.
CHECKS = {
    "K-E1": 3, "K-E2": 3, "K-E3": 2, "K-E4": 2,
    "K-C1": 7, "K-C2": 2, "K-C3": 6, "K-C4": 2, "K-C5": 1, "K-C8": 2,
    "K-S1": 4, "K-S2": 4, "K-S3": 2, "K-S4": 2, "K-S5": 3, "K-S9": 1, "K-O6": 1,
}  # fmt: skip
DECIDED_OTHERWISE = {
    "K-S5.2": "An event has one handler. Several would need one answer for many ends, which is fan-out.",
}
NUMBER = re.compile(r"\bK-[A-Z]\d+\b")


def carried() -> dict[str, set[str]]:
    """Return the numbers in the docstring of every test, by ``file::test``; nothing is imported for that."""
    found: dict[str, set[str]] = {}
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                name = f"{path.stem.removeprefix('test_')}::{node.name.removeprefix('test_')}"
                found[name] = set(NUMBER.findall(ast.get_docstring(node) or ""))
    return found


CARRIED = carried()


def test_every_check_is_tested_or_decided_otherwise() -> None:
    wanted = {f"{capability}.{check}" for capability, checks in CHECKS.items() for check in range(1, checks + 1)}
    assert TESTED.keys() | DECIDED_OTHERWISE.keys() == wanted
    assert TESTED.keys() & DECIDED_OTHERWISE.keys() == set()


@pytest.mark.parametrize("check", TESTED)
def test_the_tests_in_the_table_exist_and_carry_the_number(check: str) -> None:
    capability = check.partition(".")[0]
    assert [test for test in TESTED[check] if capability not in CARRIED.get(test, ())] == []


def test_no_test_carries_a_number_that_is_not_known_here() -> None:
    known = CHECKS.keys() | {"K-S6"}  # admission control, of which the limits are here already
    assert {test: numbers - known for test, numbers in CARRIED.items() if numbers - known} == {}


# The wire, from end to end.


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
@pytest.mark.parametrize(
    ("data", "raw"),
    [
        ({"data": "grün, 100 %\n", "datacontenttype": "text/plain"}, "grün, 100 %\n".encode()),
        ({"data": {"id": 1, "name": "Straße"}}, '{"id":1,"name":"Straße"}'.encode()),
        ({"data": b"\x00\xff%", "datacontenttype": "image/png"}, b"\x00\xff%"),
        ({"data": b"\x00\xff%"}, b"\x00\xff%"),
        ({"data": None}, b"null"),
        ({}, None),
    ],
    ids=["text", "JSON", "bytes", "bytes of no type", "null", "nothing"],
)
async def test_an_event_arrives_as_it_was_sent_in_every_mode(
    mode: Literal["binary", "structured", "batch"], data: dict[str, Any], raw: bytes | None
) -> None:
    """K-E2: attributes, extensions and data, byte for byte."""
    arrived: list[Event] = []

    async def keep(event: Event) -> None:
        arrived.append(event)

    event = Event(
        type="com.example.order.created",
        source="/orders/gr%C3%BCn?q=100%25",
        subject='100 % "sure"',
        time="2026-01-02T03:04:05.1Z",
        note="Ünïcödé 😀 50%25 % \\",
        count=-5,
        flag=True,
        **data,
    )
    async with (
        Receiver(keep, port=0) as receiver,
        Sender(receiver.url, max_batch=1, retry=RetryPolicy.none()) as sender,
    ):
        results = await sender.send_batch([event]) if mode == "batch" else [await sender.send(event, mode=mode)]
    assert all(results)
    (found,) = arrived
    written = {name: str(value).lower() if value is True else str(value) for name, value in event.attributes.items()}
    assert dict(found.attributes) == (written if mode == "binary" else dict(event.attributes))
    assert found.get_int("count") == -5
    assert found.get_bool("flag") is True
    assert (found.raw, found.has_data) == (raw, raw is not None)
    if raw is not None:
        assert found.data == event.data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request(STRUCTURED, body='{"specversion":"1.0","id":'), 400),
        (request(STRUCTURED, body='{"specversion":"1.0","source":"/s","type":"t"}'), 400),
        (request(*without(HEAD, "ce-id")), 400),
        (request(BATCH, body='[{"specversion":"1.0","source":"/s","type":"t"}]'), 400),
        (request("Content-Type: text/plain", body="hello"), 415),
        (request(*HEAD, method="GET"), 405),
        (request(*HEAD, body="x" * 101), 413),
    ],
)
async def test_what_is_no_event_is_refused_and_the_handler_is_not_called(kind: Kind, data: bytes, status: int) -> None:
    """K-E2."""
    called: list[Event] = []
    async with served(kind, called.append, max_body=100) as port:
        answer = await ask(port, data)
    assert problem(answer)["status"] == answer.status == status
    assert called == []


# Ownership.

OWNERS = """
import asyncio
from cloudevents_kit import Event, Receiver, Sender
from tests.support.parts import Part, StagePart

async def handle(event):
    pass

async def fail_to_start(diary):
    stages = [StagePart("A", diary), StagePart("B", diary, opening=OSError("B"))]
    try:
        async with Receiver(handle, *stages, port=0, resources=[Part("R", diary, closing=KeyError("R"))]):
            pass
    except* (OSError, KeyError) as group:
        diary.append(len(group.exceptions))

async def fail_to_stop(diary):
    stages = [StagePart("A", diary, closing=OSError("A")), StagePart("B", diary, closing=KeyError("B"))]
    try:
        async with Receiver(handle, *stages, port=0) as receiver, Sender(receiver.url) as sender:
            assert await sender.send(Event(type="t", source="/s"))
    except* (OSError, KeyError) as group:
        diary.append(len(group.exceptions))

async def main():
    for work in (fail_to_start, fail_to_stop):
        diary = []
        await work(diary)
        print(*diary, sep=", ")
        assert asyncio.all_tasks() == {asyncio.current_task()}

asyncio.run(main())
"""


async def test_a_part_that_fails_leaves_nothing_open_and_no_warning() -> None:
    """K-O6: warnings are errors, and what is left open at the end of the process would be one."""
    code, printed = await run("-c", OWNERS)
    assert printed.splitlines() == [
        "open R, open A, close A, close R, 2",
        "open A, open B, A in, B in, B out, A out, close B, close A, 2",
    ]
    assert code == 0
