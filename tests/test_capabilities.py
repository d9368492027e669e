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
    "K-E4.1": (
        "sender_events::what_a_handler_sends_names_its_cause",
        "saga_answers::question_and_answer_may_share_nothing_but_their_correlation",
        "pubsub_durable::it_takes_events_over_the_wire_and_what_they_cause_names_them",
        "outbox::an_event_that_is_added_while_another_is_handled_names_its_cause",
        "event_log::what_a_handler_appends_names_its_cause",
    ),
    "K-E4.2": (
        "sender_events::a_nested_dispatch_gives_the_outer_context_back",
        "pubsub_events::what_is_published_in_a_handler_belongs_to_the_event_that_is_handled_there",
    ),
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
    "K-C3.1": (
        "sender_retry::a_peer_that_is_always_busy_gets_every_attempt_with_growing_gaps",
        "retry::the_waits_grow_up_to_their_bound_and_none_follows_the_last_attempt",
    ),
    "K-C3.2": (
        "retry_policy::a_wait_stays_within_its_bounds",
        "retry_policy::a_seed_makes_the_jitter_repeatable",
        "retry::jitter_stays_within_the_bound_and_a_seed_repeats_it",
    ),
    "K-C3.3": (
        TRUTH_TABLE,
        "sender_retry::retry_after_beyond_the_deadline_ends_it_at_once",
        "retry::retry_after_is_obeyed",
        "retry::retry_after_beyond_the_deadline_ends_it_at_once_and_is_told",
    ),
    "K-C3.4": (
        TRUTH_TABLE,
        "sender_retry::a_peer_that_comes_up_later_gets_the_event",
        "retry::what_is_final_passes_at_once",
        "retry::what_succeeds_later_gives_its_own_outcome",
    ),
    "K-C3.5": ("sender_retry::what_may_have_arrived_is_sent_again_only_if_the_policy_says_so",),
    "K-C3.6": (
        "retry_policy::a_policy_that_makes_no_sense_is_refused_by_name",
        "retry::a_policy_that_makes_no_sense_cannot_be_built",
    ),
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
    # Versions of events
    "K-E5.1": (
        "upcast::a_handler_sees_the_newest_version_whatever_comes_in",
        "upcast::steps_that_go_round_or_part_are_refused_at_once",
    ),
    "K-E5.2": ("upcast::a_type_without_a_domain_is_warned_of_once",),
    # Stages of plain functions
    "K-P1.1": (
        "functions::a_function_that_raises_stops_with_an_error_that_says_where",
        "functions::tap_goes_on_with_the_same_event_whatever_the_function_returns",
    ),
    "K-P1.2": (
        "functions::enrich_that_fails_half_way_leaves_the_event_as_it_was",
        "functions::a_mark_tells_whether_the_event_was_enriched",
    ),
    "K-P1.3": ("functions::a_cancellation_gets_out",),
    "K-P1.4": ("functions::keep_if_drops_the_others_which_are_acknowledged_and_counted",),
    # What a chain is, and what it does
    "K-P11.1": (
        "describe::a_description_is_a_tree_to_read",
        "describe::a_description_is_json_in_a_stable_order",
        "describe::adapters_are_told_apart",
    ),
    "K-O1.1": (
        "observe::a_slow_hook_and_one_that_raises_harm_no_event",
        "observe::every_event_ends_in_exactly_one_counter",
        "observe::what_a_stage_did_with_an_event_instead_is_its_outcome",
    ),
    "K-O1.2": ("observe::a_cancelled_event_is_told_as_cancelled",),
    "K-O1.3": ("observe::labels_cannot_be_chosen_by_peers",),
    # Replacing a chain
    "K-P2.1": (
        "replaceable::new_events_use_the_new_chain_and_running_ones_end_on_the_old",
        "replaceable::fifty_events_at_once_while_it_is_replaced_twenty_times_are_all_handled",
    ),
    "K-P2.2": ("adapt::the_same_exception_raised_again_and_again_gives_the_same_path",),
    # Several branches
    "K-P7.1": (
        "race::when_all_fail_the_error_holds_every_cause",
        "first_of::when_all_fail_the_error_holds_every_cause",
        "fan_out::best_effort_goes_on_and_names_what_failed",
        "race::a_deadline_during_a_race_is_a_time_out_and_never_the_event",
        "fan_out::a_time_limit_around_it_is_a_time_out",
    ),
    "K-P7.2": (
        "race::the_first_success_wins_and_the_losers_have_ended_before_it_returns",
        "race::a_loser_that_takes_its_time_to_end_is_awaited",
        "race::fifty_races_of_which_half_are_cancelled_leave_nothing_behind",
    ),
    "K-P7.3": ("first_of::when_cancelled_the_next_branch_is_not_begun",),
    "K-C6.1": (
        "fan_out::with_policy_all_one_failure_refuses_the_event_with_a_result_per_branch",
        "fan_out::over_the_wire_the_failure_of_a_branch_is_a_nack",
        "fan_out::a_quorum_is_enough",
        "fan_out::best_effort_goes_on_and_names_what_failed",
        "pubsub::with_policy_all_one_that_is_down_fails_the_event_with_the_result_of_each",
        "pubsub::a_quorum_is_enough_and_tells_who_failed",
        "pubsub::best_effort_acknowledges_and_tells_who_failed",
    ),
    "K-C6.2": (
        "fan_out::no_more_than_the_limit_run_at_once",
        "pubsub::no_more_than_the_limit_have_an_event_at_once",
    ),
    "K-C6.3": ("pubsub::only_those_who_want_an_event_get_it_and_after_cancel_none",),
    # One of several branches
    "K-P8.1": (
        "route::without_a_default_there_is_no_route",
        "route::an_unknown_key_is_refused_and_counted",
        "route::an_unknown_key_passes_if_asked_to",
    ),
    # Batches, order and queues
    "K-D3.1": (
        "batch::a_full_batch_goes_at_once",
        "batch::a_batch_that_does_not_fill_goes_after_its_delay_from_the_first_event",
        "batch::data_makes_a_batch_full_too",
        "batch::results_go_back_to_their_own_events_and_handled_ones_go_on",
    ),
    "K-D3.2": (
        "batch::a_batch_handler_that_fails_fails_all_of_its_callers",
        "batch::a_close_flushes_the_rest",
        "batch::over_the_limit_events_wait_for_room_or_are_refused",
    ),
    "K-D7.1": (
        "order::events_of_a_key_are_handled_in_order_of_arrival_and_other_keys_in_parallel",
        "order::skip_lets_the_next_one_go_on_and_the_sender_learns_of_the_failure",
        "order::block_refuses_what_is_behind_until_the_failed_one_came_again",
        "order::block_does_not_wait_for_ever_for_what_does_not_come",
        "order::a_function_takes_what_failed_and_the_key_goes_on",
        "order::fifty_tasks_of_five_keys_keep_their_order_whoever_leaves",
        "queue_stored::events_of_one_key_are_done_in_order_even_if_one_is_tried_again",
    ),
    "K-P6.1": (
        "queue::of_more_than_there_is_room_for_some_are_refused_and_all_others_get_their_results",
        "queue::a_close_lets_all_that_is_queued_be_handled",
        "queue::a_close_refuses_what_still_waits_after_its_grace_and_nobody_waits_for_ever",
        "queue::a_queued_event_takes_less_than_a_kilobyte",
        "queue::fifty_tasks_some_of_which_leave",
    ),
    "K-P6.2": (
        "queue::more_workers_may_come_while_one_works",
        "queue_stored::workers_may_come_and_go",
    ),
    "K-P6.3": (
        "queue::events_of_one_key_run_one_by_one_in_order_and_others_in_parallel",
        "queue_stored::events_of_one_key_are_done_in_order_even_if_one_is_tried_again",
    ),
    # Work in the background
    "K-C7.1": (
        "queue::of_more_than_there_is_room_for_callers_wait",
        "background::when_it_is_full_events_wait_in_order",
        "background::when_it_is_full_an_event_is_refused_if_asked_to",
        "background::when_closed_it_waits_for_what_it_has_up_to_its_grace",
        "background::under_any_mixture_every_event_is_accounted_for",
        "pubsub_soon::when_a_queue_is_full_the_caller_is_refused_for_that_subscriber_alone",
        "pubsub_soon::when_a_queue_is_full_callers_wait_in_order",
        "pubsub_closing::when_closed_all_is_sent_or_told_as_unsent",
    ),
    "K-C7.2": (
        "pubsub_soon::the_end_of_the_request_does_not_cancel_it_and_its_context_is_kept",
        "pubsub_soon::a_caller_that_is_cancelled_afterwards_does_not_cancel_it",
        "background::the_end_of_the_request_does_not_cancel_it",
        "background::a_request_that_is_cancelled_afterwards_does_not_cancel_it",
    ),
    # Transports in memory; leases are those of the outbox and of the stored queue
    "K-D10.1": (
        "pubsub_soon::groups_in_memory_get_every_event_once_and_one_that_fails_goes_to_the_dead_letters",
        "pubsub_durable::each_event_is_stored_for_all_who_want_it_and_each_gets_it_once",
        "pubsub_durable::what_is_not_acknowledged_comes_again_after_the_lease",
        "pubsub_closing::when_closed_all_is_sent_or_told_as_unsent",
        "durable_fan_out_crash::every_subscriber_has_every_acknowledged_event_that_it_wants",
        "queue_stored::an_event_that_takes_longer_than_its_lease_is_cancelled_and_tried_again",
    ),
    "K-D10.2": (
        "pubsub_soon::groups_in_memory_get_every_event_once_and_one_that_fails_goes_to_the_dead_letters",
        "pubsub_durable::an_event_that_fails_goes_to_the_dead_letters_and_the_others_go_on",
    ),
    # Sending later; of two priorities nothing is kept: that is two outboxes
    "K-D11.1": (
        "outbox::an_event_for_later_is_sent_when_its_time_has_come_and_not_before",
        "outbox::an_event_for_later_holds_up_nobody_and_waits_for_nobody",
        "outbox::what_waits_can_be_cancelled_and_what_is_being_sent_or_gone_cannot",
        "sql_outbox::an_event_for_later_survives_a_restart",
        "sql_outbox::a_transaction_may_add_events_for_later",
        "sql_outbox::one_of_several_processes_cancels_an_event_or_sends_it",
        "outbox_crash::every_committed_order_is_sent_and_no_other",
        "examples_scheduled::the_example_sends_each_reminder_when_it_is_due_unless_it_was_cancelled",
    ),
    # Containment of what users write
    "K-P9.1": (
        "functions::a_function_that_raises_stops_with_an_error_that_says_where",
        "functions::a_failure_is_logged_once_with_its_traceback",
        "observe::a_slow_hook_and_one_that_raises_harm_no_event",
        "endpoints::an_endpoint_that_fails_says_so_in_a_line",
        "route::a_broken_function_is_reported_once_and_the_server_lives",
        "first_of::when_all_fail_it_is_reported_once_and_the_event_is_to_be_sent_again",
        "race::a_test_that_fails_makes_its_branch_fail",
        "fan_out::a_broken_branch_is_reported_once_and_not_to_the_peer",
        "fan_out::a_report_that_fails_changes_nothing",
        "background::a_failure_is_logged_with_its_traceback_counted_and_reported",
        "background::a_report_that_fails_is_logged_once",
    ),
    # Guards
    "K-P3.1": (
        "timeout::what_takes_too_long_is_cancelled",
        "retry::a_timeout_inside_never_leaves_two_executions_at_once",
    ),
    "K-P3.2": ("timeout::success_at_the_very_end_is_success",),
    "K-P4.1": (
        "circuit_breaker::after_so_many_failures_in_a_row_nothing_is_called_any_more",
        "circuit_breaker::of_many_that_come_after_the_reset_one_is_let_through",
    ),
    "K-P4.2": (
        "circuit_breaker::cancellations_do_not_count_and_give_their_place_back",
        "circuit_breaker::rejections_do_not_count_neither_for_nor_against",
        "circuit_breaker::data_that_does_not_fit_does_not_count",
    ),
    "K-P4.3": ("circuit_breaker::every_target_has_a_circuit_of_its_own",),
    "K-P5.1": (
        "rate_limit::they_pass_in_the_order_of_their_coming_with_even_gaps",
        "rate_limit::more_than_may_wait_are_refused",
        "rate_limit::a_try_after_the_time_that_was_told_passes",
        "rate_limit::settings_that_make_no_sense_are_refused",
    ),
    # Dead letters
    "K-D2.1": (
        "dead_letter::an_event_whose_retries_are_used_up_is_one_letter_and_acknowledged",
        "dead_letter::a_letter_keeps_its_event_byte_for_byte",
        "dead_letter::the_same_failure_again_adds_to_the_letter",
        "dead_letter::a_store_that_fails_makes_the_event_come_again_and_both_errors_are_reported",
        "dead_letter_sink::a_refusal_is_a_letter_and_its_caller_still_gets_the_refusal",
        "dead_letter_sink::no_answer_is_a_letter_that_knows_that_the_event_may_have_arrived",
        "dead_letter_sink::real_retries_that_are_used_up_are_one_letter",
        "dead_letter_sink::a_store_that_fails_is_told_with_the_result_and_in_the_log",
    ),
    "K-D2.2": (
        "dead_letter_redrive::letters_are_sent_once_each_and_removed_when_they_are_acknowledged",
        "dead_letter_redrive::only_what_the_filter_passes_is_sent",
        "dead_letter_redrive::what_fails_stays_and_its_attempts_are_counted",
        "dead_letter_redrive::two_redrives_at_once_send_each_letter_once",
        "dead_letter_redrive::a_letter_is_there_until_its_event_is_acknowledged",
        "dead_letter_crash::a_redrive_that_dies_at_any_step_loses_nothing",
        "dead_letter_crash::a_kill_loses_no_dead_letter_and_no_redrive",
    ),
    "K-D2.3": ("dead_letter::what_is_final_is_not_repeated_before_it_is_a_letter",),
    "K-D2.4": (
        "dead_letter_store::memory_that_is_full_refuses_and_drops_nothing",
        "dead_letter::a_store_that_is_full_says_so",
        "dead_letter_redrive::a_purge_is_loud",
    ),
    "K-P10.1": (
        "dead_letter::an_event_that_ran_out_of_time_is_stored_in_a_time_of_its_own",
        "on_error::a_hook_has_a_fresh_deadline_after_a_timeout",
        "on_error::a_hook_that_has_begun_is_not_cut_short_by_a_cancellation",
        "on_error::a_hook_that_fails_makes_a_nack_and_both_errors_are_reported",
        "on_error::a_hook_that_fails_never_makes_it_final",
        "on_error::a_hook_that_fails_after_a_cancellation_is_reported_all_the_same",
        "on_error::the_result_of_a_sink_is_not_taken_for_success",
    ),
    # Admission
    "K-S6.1": (
        "bulkhead::more_than_may_wait_are_refused_and_the_handler_never_sees_them",
        "receiver::requests_over_the_limit_are_503_with_retry_after_and_never_reach_the_handler",
    ),
    "K-S6.2": (
        "rate_limit::each_client_has_its_burst_and_then_a_429_that_tells_the_truth",
        "rate_limit::only_so_many_keys_are_remembered",
        "rate_limit::the_sender_is_told_over_http",
    ),
    "K-S6.3": (
        "receiver::a_body_over_the_limit_is_413_and_at_the_limit_is_taken",
        "receiver::half_a_head_is_closed_after_the_idle_timeout",
    ),
    # Duplicates, cached lookups
    "K-D1.1": ("deduplicate::a_failed_event_is_processed_again",),
    "K-D1.2": (
        "deduplicate::of_50_copies_at_once_one_is_handled_and_the_others_are_to_come_again",
        "deduplicate::copies_that_wait_get_the_reply_of_the_one_that_ran",
        "deduplicate::copies_wait_no_longer_than_max_wait",
        "deduplicate::a_duplicate_gets_the_outcome_again",
        "deduplicate::what_is_cancelled_is_released_and_the_cancellation_passes",
        "redis_faults::five_processes_that_get_the_same_1000_events_handle_each_once",
    ),
    "K-D1.3": ("deduplicate::the_same_id_of_another_source_is_another_event",),
    "K-D1.4": (
        "deduplicate::an_event_that_a_crash_left_is_handled_again_after_its_lease",
        "deduplicate::a_handler_may_take_longer_than_the_lease",
    ),
    "K-D1.5": (
        "deduplicate::a_finished_event_is_remembered_for_the_ttl_of_its_type",
        "memory_stores::no_more_than_max_entries_are_kept_and_the_oldest_go_first",
    ),
    "K-D1.6": (
        "deduplicate_store::without_its_store_it_refuses",
        "deduplicate_store::without_its_store_it_processes_unguarded_if_told_to",
        "redis_faults::a_stage_refuses_events_while_the_server_is_away_and_handles_them_afterwards",
    ),
    "K-D1.7": ("deduplicate_store::a_commit_that_fails_is_never_silent",),
    # Sagas
    "K-D8.1": (
        "saga::a_final_failure_compensates_what_was_done_in_reverse_each_once",
        "saga::a_compensation_that_keeps_failing_is_stuck_and_a_dead_letter_until_it_is_resumed",
        "saga::the_dead_letter_of_a_stuck_saga_names_it_and_leads_back_to_it",
        "saga_answers::the_answer_to_one_step_is_none_to_the_next_and_none_to_what_takes_it_back",
    ),
    "K-D8.2": (
        "saga_recovery::a_journal_that_fails_for_a_while_delays_and_loses_nothing",
        "saga_recovery::a_save_whose_answer_was_lost_is_made_again",
        "saga::a_step_that_returns_none_leaves_the_other_results_alone",
    ),
    "K-D8.3": (
        "saga_copies::within_retention_a_copy_starts_nothing_and_after_it_a_new_saga",
        "saga_copies::five_copies_at_once_run_each_step_once",
        "sql_journal::two_programs_drive_each_saga_once",
        "saga_events::two_events_at_once_are_both_kept",
        "sql_journal::of_many_events_for_a_saga_at_two_programs_none_is_lost_while_it_runs",
    ),
    "K-D8.4": (
        "saga_events::an_event_for_a_saga_that_has_not_started_is_to_be_sent_again",
        "saga_events::an_event_for_a_saga_that_has_not_started_is_parked_until_it_does",
        "saga_events::what_stays_parked_becomes_a_dead_letter",
        "saga_events::an_event_that_comes_while_what_is_parked_is_handed_over_is_kept",
    ),
    "K-D8.5": (
        "saga_recovery::a_step_whose_process_died_is_run_again_when_the_lease_ends",
        "saga_crash::every_saga_is_completed_or_compensated_and_each_effect_happened_once",
        "saga_doubt::past_the_deadline_no_step_begins_and_what_was_done_is_compensated",
        "saga_ask::the_deadline_ends_the_wait_for_an_answer",
        "saga_ask::a_compensation_may_ask_and_wait_as_well",
        "saga_doubt::a_plain_function_is_not_left_running_beside_what_takes_it_back",
    ),
    # Event log
    "K-D9.1": (
        "event_log::a_wrong_expected_version_is_a_conflict_and_nothing_is_written",
        "sql_event_log::of_two_processes_that_expect_one_version_one_wins",
    ),
    "K-D9.2": (
        "event_log::a_replay_from_a_position_stops_at_an_event_that_fails_and_goes_on_there",
        "event_log::a_replay_can_collect_what_fails",
        "event_log_background::a_restart_continues_at_the_checkpoint_and_nothing_is_lost_or_comes_twice",
        "event_log_crash::what_was_acknowledged_is_there_in_order_and_the_views_are_what_it_comes_to",
    ),
    "K-D9.3": (
        "event_log_background::conditions_are_of_count_and_age_and_can_be_joined",
        "event_log_background::a_condition_fires_also_for_fewer_events_than_a_batch",
        "event_log_background::all_of_fires_when_both_hold_and_hands_over_all_that_waits_in_batches",
    ),
    # Enrichment
    "K-D4.1": (
        "cache::of_100_at_once_for_one_cold_key_one_loads",
        "cache::if_the_loader_fails_events_go_on_and_say_so",
        "cache::that_there_is_no_value_is_kept_for_negative_ttl_only",
        "cache::the_size_is_bounded_and_the_least_used_goes_first",
        "cache::a_value_is_kept_for_its_ttl",
        "cache::a_value_loaded_by_one_process_serves_the_others",
        "shared_cache::values_are_loaded_once_for_several_processes",
    ),
    # Windows
    "K-D6.1": (
        "aggregate::four_workers_and_a_thousand_events_of_one_key",
        "redis_faults::four_processes_count_1000_events_of_one_key_once",
        "aggregate::an_event_that_comes_again_counts_once",
        "aggregate::an_event_in_fifty_copies_at_once_counts_once",
        "aggregate::windows_go_by_the_time_of_the_event",
        "aggregate_failures::a_key_may_be_made_by_a_function",
        "reducers::distinct_stops_at_its_limit_and_says_so",
    ),
    # Rules
    "K-D5.1": (
        "conditions::the_operators_say_what_the_documentation_tells",
        "conditions::the_documentation_tells_all_sixteen_operators",
        "conditions::what_is_missing_satisfies_a_condition_only_if_it_is_asked_to",
        "conditions::a_condition_that_cannot_work_is_refused_when_it_is_made",
        "conditions::a_condition_says_the_same_of_an_event_in_every_mode",
        "rules_loading::an_error_names_the_rule_the_place_and_what_was_meant",
    ),
    "K-D5.2": (
        "rules::a_rule_sees_what_a_stage_before_it_has_set",
        "rules::the_first_rule_by_priority_and_then_by_order_decides",
        "rules::a_blocked_event_is_acknowledged_and_not_handled",
        "rules::a_refused_event_is_answered_as_the_rule_says",
        "rules::a_publisher_sends_to_all_destinations_that_rules_have_named",
        "rules::the_rule_that_decides_is_the_one_that_a_plain_reading_finds",
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
    "K-E1": 3, "K-E2": 3, "K-E3": 2, "K-E4": 2, "K-E5": 2, "K-P1": 4, "K-P11": 1, "K-O1": 3,
    "K-C1": 7, "K-C2": 2, "K-C3": 6, "K-C4": 2, "K-C5": 1, "K-C8": 2,
    "K-S1": 4, "K-S2": 4, "K-S3": 2, "K-S4": 2, "K-S5": 3, "K-S9": 1, "K-O6": 1,
    "K-C6": 3, "K-C7": 2, "K-P2": 2, "K-P7": 3, "K-P8": 1, "K-P9": 1,
    "K-D3": 2, "K-D7": 1, "K-D10": 2, "K-D11": 1, "K-P6": 3,
    "K-P3": 2, "K-P4": 3, "K-P5": 1, "K-P10": 1, "K-S6": 3,
    "K-D1": 7, "K-D2": 4, "K-D4": 1, "K-D5": 2, "K-D6": 1, "K-D8": 5, "K-D9": 3,
}  # fmt: skip
DECIDED_OTHERWISE = {
    "K-S5.2": "An event has one handler. Several would need one answer for many ends, which is fan-out.",
}
NUMBER = re.compile(r"\bK-[A-Z]\d+\b")


def carried() -> dict[str, set[str]]:
    """Return the numbers in the docstring of every test, by ``file::test``; nothing is imported for that."""
    found: dict[str, set[str]] = {}
    here = Path(__file__).parent
    for path in [*here.glob("test_*.py"), *here.glob("st*/test_*.py")]:
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
    known = CHECKS.keys()
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
    stages = [StagePart("A", diary, opening=OSError("A")), StagePart("B", diary)]
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
        "open R, open B, close B, close R, 2",
        "open B, open A, A in, B in, B out, A out, close A, close B, 2",
    ]
    assert code == 0
