"""The specification table: every number of the checklist, and the tests that hold it.

All tests beside this file that carry a number are listed, and of those elsewhere the ones that say most. Numbers that
are not here are in ``checklist.LATER``. ``test_table`` compares this with the numbers that the tests carry.
"""

from __future__ import annotations

from tests.spec.checklist import rows

EXTENSION = (
    "test_extensions.py::test_a_documented_extension_that_keeps_its_rules_is_taken",
    "test_extensions.py::test_a_documented_extension_that_breaks_its_rules_cannot_be_built",
)
HOSTILE = "test_hostile_requests.py::test_a_hostile_request_gets_its_answer"
TRUTH_TABLE = "../test_truth_table.py::test_the_result_tells_what_happened"

TESTED: dict[str, tuple[str, ...]] = {
    # Event model
    "EM-01": ("test_event_model.py::test_a_required_attribute_is_there_and_not_empty",),
    "EM-02": ("test_event_model.py::test_a_required_attribute_is_never_invented_on_receipt",),
    "EM-03": ("test_event_model.py::test_an_optional_attribute_is_never_invented_on_receipt",),
    "EM-04": ("test_event_model.py::test_any_specversion_but_one_is_refused",),
    "EM-05": ("test_event_model.py::test_the_version_of_2018_is_refused_as_unsupported",),
    "EM-06": ("test_event_model.py::test_an_attribute_name_has_only_lower_case_letters_and_digits",),
    "EM-07": ("test_event_model.py::test_data_is_the_name_of_no_attribute",),
    "EM-08": ("test_event_model.py::test_long_names_and_names_that_begin_with_a_digit_are_legal",),
    "EM-09": ("test_event_model.py::test_an_attribute_occurs_once", "test_event_model.py::test_a_header_occurs_once"),
    "EM-10": (
        "test_event_model.py::test_a_source_is_a_uri_reference",
        "test_event_model.py::test_a_source_that_is_no_uri_reference_is_refused",
    ),
    "EM-11": ("test_event_model.py::test_a_dataschema_is_an_absolute_uri",),
    "EM-12": ("test_event_model.py::test_a_subject_is_no_empty_text",),
    "EM-13": (
        "test_event_model.py::test_a_datacontenttype_stays_byte_for_byte",
        "test_event_model.py::test_a_datacontenttype_that_is_no_media_type_is_refused",
    ),
    "EM-14": ("test_event_model.py::test_the_case_of_a_media_type_does_not_matter",),
    "EM-15": ("test_event_model.py::test_a_datacontenttype_needs_no_data",),
    "EM-16": ("test_event_model.py::test_a_time_is_set_from_a_text_and_read_as_a_datetime",),
    "EM-17": ("test_event_model.py::test_a_retry_keeps_the_identity_and_two_events_never_share_one",),
    "EM-18": ("test_event_model.py::test_the_identity_is_the_pair_of_source_and_id",),
    "EM-19": ("test_event_model.py::test_an_event_cannot_turn_invalid_and_a_foreign_one_is_checked_before_it_is_sent",),
    "EM-20": ("test_event_model.py::test_building_an_event_leaves_the_callers_values_alone",),
    "EM-21": ("test_event_model.py::test_unknown_extensions_survive_every_change_of_mode",),
    "EM-22": (
        "test_event_model.py::test_an_intermediary_forwards_everything_untouched",
        "test_extensions.py::test_on_receipt_a_documented_extension_passes_as_it_came",
    ),
    "EM-23": ("test_event_model.py::test_events_of_64_kib_pass_with_default_limits",),
    "EM-24": ("test_event_model.py::test_a_nested_event_is_not_taken_for_its_envelope",),
    "EM-25": ("test_event_model.py::test_the_log_names_an_event_and_neither_its_data_nor_a_token",),
    # Type system
    "TS-01": (
        "test_http_binary.py::test_values_of_every_type_are_text_in_headers",
        "test_type_system.py::test_a_boolean_is_written_in_lower_case",
    ),
    "TS-02": ("test_type_system.py::test_a_boolean_is_no_integer",),
    "TS-03": (
        "test_type_system.py::test_an_integer_of_32_bits_is_kept",
        "test_type_system.py::test_an_integer_beyond_32_bits_is_refused",
    ),
    "TS-04": (
        "test_type_system.py::test_text_that_is_no_integer_is_not_read_as_one",
        "test_type_system.py::test_json_that_is_no_integer_is_refused",
        "test_type_system.py::test_text_that_is_an_integer_is_read_as_one",
    ),
    "TS-05": (
        "test_type_system.py::test_a_character_that_the_string_type_excludes_is_refused",
        "test_type_system.py::test_every_other_character_is_kept",
        "test_type_system.py::test_a_surrogate_pair_in_json_is_one_character",
    ),
    "TS-06": ("test_type_system.py::test_bytes_are_written_as_base64",),
    "TS-07": ("test_type_system.py::test_urls_and_datetimes_are_written_as_their_text",),
    "TS-08": (
        "test_type_system.py::test_no_other_type_is_an_attribute",
        "test_type_system.py::test_no_other_json_type_is_an_attribute",
    ),
    "TS-09": (
        "test_type_system.py::test_text_that_is_an_integer_is_read_as_one",
        "test_type_system.py::test_values_that_came_as_text_are_read_by_type_on_demand",
    ),
    "TS-10": ("test_type_system.py::test_a_value_from_a_header_is_text",),
    "TS-11": (
        "test_type_system.py::test_a_timestamp_follows_rfc_3339_and_keeps_its_text",
        "test_type_system.py::test_anything_else_is_no_timestamp",
        "test_type_system.py::test_a_timestamp_is_no_other_json_type",
    ),
    "TS-12": (
        "test_type_system.py::test_a_timestamp_follows_rfc_3339_and_keeps_its_text",
        "test_type_system.py::test_the_digits_of_a_second_are_neither_cut_nor_added",
    ),
    "TS-13": ("test_type_system.py::test_an_offset_with_seconds_is_written_in_utc",),
    "TS-14": (
        "test_type_system.py::test_a_leap_second_is_kept_as_text_and_read_as_the_last_microsecond_before_it",
        "test_type_system.py::test_a_year_that_datetime_lacks_is_kept_as_text",
    ),
    # Extensions
    "EX-01": (*EXTENSION, "test_extensions.py::test_a_trace_that_an_event_has_is_never_replaced"),
    "EX-02": (*EXTENSION, "test_extensions.py::test_a_reply_names_its_cause_and_its_correlation"),
    "EX-03": EXTENSION,
    "EX-04": (*EXTENSION, "test_extensions.py::test_a_sequence_is_text_that_sorts_as_text"),
    "EX-05": (*EXTENSION, "test_event_model.py::test_an_intermediary_forwards_everything_untouched"),
    "EX-06": (*EXTENSION, "test_event_model.py::test_an_intermediary_forwards_everything_untouched"),
    "EX-07": (*EXTENSION, "test_extensions.py::test_a_dataref_is_never_fetched"),
    "EX-08": EXTENSION,
    "EX-09": EXTENSION,
    "EX-10": EXTENSION,
    "EX-11": (*EXTENSION, "test_extensions.py::test_a_receiver_never_decides_by_authtype"),
    "EX-12": EXTENSION,
    # JSON format
    "JF-01": ("test_json_format.py::test_the_media_type_of_the_json_format",),
    "JF-02": ("test_json_format.py::test_booleans_and_integers_keep_their_json_type",),
    "JF-03": (
        "test_json_format.py::test_an_integer_has_no_fraction_and_no_exponent",
        "test_json_format.py::test_minus_zero_is_zero",
    ),
    "JF-04": ("test_json_format.py::test_a_null_attribute_is_absent",),
    "JF-05": ("test_json_format.py::test_extensions_is_a_name_like_any_other",),
    "JF-06": ("test_json_format.py::test_absent_data_is_not_null_data",),
    "JF-07": (
        "test_json_format.py::test_a_json_datacontenttype_makes_the_data_json",
        "test_json_format.py::test_no_other_datacontenttype_does",
        "test_json_format.py::test_json_is_no_media_type_at_all",
    ),
    "JF-08": ("test_json_format.py::test_data_without_datacontenttype_is_json",),
    "JF-09": ("test_json_format.py::test_a_string_that_holds_json_is_not_parsed_again",),
    "JF-10": ("test_json_format.py::test_every_json_value_keeps_value_and_type",),
    "JF-11": ("test_json_format.py::test_bytes_are_base64_also_for_a_json_datacontenttype",),
    "JF-12": ("test_json_format.py::test_data_and_data_base64_exclude_each_other",),
    "JF-13": (
        "test_json_format.py::test_data_base64_is_read_strictly",
        "test_json_format.py::test_data_base64_gives_the_bytes_back",
    ),
    "JF-14": ("test_json_format.py::test_data_base64_without_datacontenttype_stays_bytes",),
    "JF-15": (
        "test_json_format.py::test_no_other_datacontenttype_does",
        "test_json_format.py::test_data_that_its_datacontenttype_cannot_carry_is_refused",
    ),
    "JF-16": (
        "test_json_format.py::test_text_travels_as_a_string",
        "test_json_format.py::test_the_charset_of_text_is_obeyed",
    ),
    "JF-17": ("test_json_format.py::test_json_without_datacontenttype_says_so_in_binary_mode",),
    "JF-18": (
        "test_json_format.py::test_what_json_cannot_say_is_refused",
        "test_json_format.py::test_a_number_too_large_for_a_float_stays_text_and_never_becomes_infinity",
    ),
    "JF-19": (
        "test_event_model.py::test_an_attribute_occurs_once",
        "test_event_model.py::test_a_member_of_the_data_may_occur_twice",
    ),
    "JF-20": ("test_json_format.py::test_json_is_utf_8", "test_json_format.py::test_another_charset_is_not_understood"),
    "JF-21": (
        "test_json_format.py::test_deep_nesting_is_refused",
        "test_json_format.py::test_a_long_number_is_refused_where_it_is_read",
    ),
    "JF-22": (
        "test_json_format.py::test_the_body_is_one_object",
        "test_json_format.py::test_white_space_around_the_object_is_nothing",
    ),
    "JF-23": ("test_json_format.py::test_a_lone_surrogate_is_refused",),
    "JF-24": (
        "test_json_format.py::test_text_is_written_as_itself",
        "test_sdk.py::test_every_event_written_is_valid_json_format",
        "test_sdk.py::test_the_schema_itself_refuses_what_is_wrong",
    ),
    "JF-25": ("test_json_format.py::test_a_key_that_is_no_string_is_refused",),
    # HTTP, binary mode
    "HB-01": (
        "test_http_binary.py::test_attributes_are_headers_and_datacontenttype_is_content_type",
        "test_http_binary.py::test_values_of_every_type_are_text_in_headers",
    ),
    "HB-02": ("test_http_binary.py::test_ce_datacontenttype_is_refused_wherever_it_stands",),
    "HB-03": ("test_http_binary.py::test_the_case_of_a_header_name_does_not_matter",),
    "HB-04": ("test_http_binary.py::test_a_value_is_percent_encoded_where_it_must_be_and_nowhere_else",),
    "HB-05": ("test_http_binary.py::test_a_quoted_string_is_unquoted_first",),
    "HB-06": ("test_http_binary.py::test_a_value_is_percent_decoded_exactly_once",),
    "HB-07": ("test_http_binary.py::test_lower_case_digits_and_needless_escapes_are_read",),
    "HB-08": ("test_http_binary.py::test_escapes_that_are_no_utf_8_are_refused",),
    "HB-09": ("test_http_binary.py::test_a_percent_sign_that_begins_no_escape_stays",),
    "HB-10": ("test_http_binary.py::test_a_plus_is_no_space",),
    "HB-11": ("test_http_binary.py::test_a_control_character_is_refused_also_when_escaped",),
    "HB-12": ("test_http_binary.py::test_raw_utf_8_is_read_and_other_raw_bytes_are_refused",),
    "HB-13": ("test_http_binary.py::test_content_type_is_taken_as_it_stands",),
    "HB-14": ("test_http_binary.py::test_the_body_is_the_data",),
    "HB-15": ("test_http_binary.py::test_the_type_of_the_data_depends_on_datacontenttype_alone",),
    "HB-16": ("test_http_binary.py::test_a_malformed_json_body_is_an_error_for_whoever_reads_it",),
    "HB-17": (
        "test_http_binary.py::test_an_empty_body_is_absent_data",
        "test_http_binary.py::test_a_body_that_says_null_is_null_data",
    ),
    "HB-18": ("test_http_binary.py::test_a_message_is_a_binary_event_only_with_all_required_headers",),
    "HB-19": (
        "test_http_binary.py::test_no_content_type_is_added_on_the_way",
        "../test_handlers.py::test_no_server_adds_a_content_type_to_a_reply",
    ),
    "HB-20": ("test_http_binary.py::test_content_type_is_read_raw",),
    "HB-21": ("test_event_model.py::test_a_header_occurs_once",),
    "HB-22": ("test_http_binary.py::test_other_headers_stand_apart_from_the_event",),
    "HB-23": ("test_http_binary.py::test_an_event_too_large_for_headers_travels_structured",),
    "HB-24": ("test_http_binary.py::test_an_attribute_in_a_trailer_is_not_there",),
    "HB-25": ("test_http_binary.py::test_nothing_reaches_the_http_library_that_it_would_change",),
    # HTTP, structured mode
    "HS-01": (
        "test_http_structured.py::test_content_type_alone_decides_the_mode",
        "test_http_structured.py::test_a_single_event_and_a_batch_are_never_mixed_up",
    ),
    "HS-02": ("test_http_structured.py::test_a_structured_body_wins_over_headers",),
    "HS-03": ("test_http_structured.py::test_the_structured_media_type_may_have_parameters",),
    "HS-04": ("test_http_structured.py::test_another_event_format_is_not_understood",),
    "HS-05": ("test_http_structured.py::test_everything_is_in_the_payload",),
    "HS-06": ("test_http_structured.py::test_a_body_that_only_looks_like_an_event_is_none",),
    "HS-07": (
        "test_http_structured.py::test_sender_and_receiver_speak_both_modes",
        "test_sdk.py::test_an_event_is_composed_sent_received_and_read",
    ),
    "HS-08": ("test_http_structured.py::test_content_type_occurs_once_and_is_no_list",),
    "HS-09": ("test_http_structured.py::test_events_come_by_post_to_the_path_of_the_receiver",),
    # HTTP, batches
    "BA-01": ("test_http_batch.py::test_a_batch_is_an_array_of_events_with_a_media_type_of_its_own",),
    "BA-02": ("test_http_batch.py::test_an_empty_batch_is_valid",),
    "BA-03": ("test_http_batch.py::test_all_events_of_a_batch_have_one_version",),
    "BA-04": ("test_http_batch.py::test_a_batch_is_sent_only_to_a_destination_that_asked_for_batches",),
    "BA-05": ("test_http_batch.py::test_a_batch_over_the_limit_is_refused_before_any_handler_runs",),
    "BA-06": ("test_http_batch.py::test_a_broken_member_refuses_the_whole_batch_with_its_index",),
    "BA-07": (
        "test_http_batch.py::test_the_body_of_a_batch_is_one_array",
        "test_http_structured.py::test_a_single_event_and_a_batch_are_never_mixed_up",
    ),
    "BA-08": (
        "test_http_batch.py::test_batches_are_split_by_count_and_by_size",
        "test_http_batch.py::test_an_event_larger_than_a_batch_may_be_travels_alone",
    ),
    "BA-09": ("test_http_batch.py::test_a_member_that_is_no_object_is_refused_with_its_index",),
    # Requests and responses
    "RR-01": (
        "test_responses.py::test_an_answer_is_read_like_a_request",
        "test_responses.py::test_a_reply_from_a_mounted_path_carries_the_same_event",
    ),
    "RR-02": ("test_responses.py::test_a_success_says_whether_the_event_was_handled_answered_or_stored",),
    "RR-03": ("test_responses.py::test_a_receiver_never_redirects",),
    "RR-04": ("test_responses.py::test_unknown_formats_floods_and_retired_endpoints_have_their_statuses",),
    "RR-05": ("test_hostile_requests.py::test_no_row_of_the_section_gives_a_5xx",),
    "RR-06": (
        "test_responses.py::test_nothing_is_acknowledged_before_it_was_handled",
        "test_responses.py::test_a_handler_runs_to_its_end_when_the_peer_leaves",
    ),
    "RR-07": (
        "test_hostile_requests.py::test_a_duplicate_is_taken_like_the_first",
        "test_responses.py::test_a_duplicate_is_accepted",
    ),
    "RR-08": ("test_responses.py::test_the_end_of_a_handler_decides_the_status",),
    "RR-09": ("test_responses.py::test_replies_are_asked_for_and_202_has_none",),
    "RR-10": ("test_responses.py::test_options_is_answered_with_what_is_allowed_and_never_needed",),
    "RR-11": ("test_responses.py::test_options_is_answered_with_what_is_allowed_and_never_needed",),
    "RR-12": ("test_responses.py::test_a_refusal_is_a_short_problem_without_anything_of_the_request",),
    "RR-13": (
        "test_responses.py::test_a_body_has_a_limit_in_size_and_in_time",
        "../test_receiver.py::test_half_a_head_is_closed_after_the_idle_timeout",
    ),
    "RR-14": ("test_responses.py::test_compressed_bodies_are_read_and_corrupt_ones_refused",),
    "RR-15": ("test_responses.py::test_a_reply_is_read_up_to_a_limit_of_inflated_bytes",),
    # Retries
    "RT-01": (
        "test_retries.py::test_a_status_that_may_change_is_retried",
        "test_retries.py::test_a_final_status_is_not",
        "test_retries.py::test_which_statuses_are_retried_is_a_setting_but_for_410",
        "test_retries.py::test_no_answer_is_retried_unless_it_would_never_help",
        "test_retries.py::test_an_ack_and_a_final_nack_end_it",
        TRUTH_TABLE,
    ),
    "RT-02": (
        "test_retries.py::test_waits_grow_by_the_factor_up_to_the_cap",
        "test_retries.py::test_jitter_spreads_a_wait_between_nothing_and_its_bound",
        "test_retries.py::test_the_deadline_counts_the_wait_that_would_follow",
    ),
    "RT-03": (
        "test_retries.py::test_the_longer_one_of_backoff_and_retry_after_counts",
        "test_retries.py::test_jitter_never_undercuts_retry_after",
        "../test_sender_retry.py::test_retry_after_holds_back_every_send",
        "../test_sender_retry.py::test_other_refusals_hold_back_that_event_alone",
        TRUTH_TABLE,
    ),
    "RT-04": (
        "test_retries.py::test_all_three_forms_of_a_date_are_read",
        "test_retries.py::test_seconds_are_read",
        "test_retries.py::test_anything_else_says_nothing",
        "test_retries.py::test_fields_that_differ_say_nothing_and_fields_that_agree_do",
        "test_retries.py::test_an_absurd_wait_is_cut_to_the_most",
    ),
    "RT-05": (
        "test_retries.py::test_all_three_forms_of_a_date_are_read",
        "test_retries.py::test_an_absurd_date_is_cut_to_the_most",
    ),
    "RT-06": ("../test_sender_events.py::test_an_event_changed_while_it_is_retried_goes_out_as_it_was",),
    "RT-07": (
        "test_retries.py::test_the_deadline_counts_the_wait_that_would_follow",
        "../test_cancellation.py::test_in_flight",
        "../test_cancellation.py::test_in_backoff",
    ),
    "RT-08": (
        "../test_sender_retry.py::test_no_more_requests_are_open_than_allowed",
        "../test_sender_batch.py::test_no_more_is_taken_from_the_source_than_is_in_flight",
    ),
    "RT-09": ("test_responses.py::test_replies_are_asked_for_and_202_has_none",),
    "RT-10": (
        "test_responses.py::test_a_peer_that_is_lost_after_its_headers_has_accepted_but_not_replied",
        TRUTH_TABLE,
    ),
    # Dead letters
    "DL-01": (
        "../test_dead_letter.py::test_what_is_forwarded_has_the_extensions_of_knative_and_is_the_same_event",
        "../test_dead_letter_sink.py::test_real_retries_that_are_used_up_are_one_letter",
    ),
    "DL-02": ("../test_dead_letter.py::test_the_code_is_an_integer_in_json_and_text_in_a_header",),
    "DL-03": (
        "../test_dead_letter.py::test_the_data_is_cut_after_1024_characters_of_base64",
        "../test_dead_letter.py::test_what_there_is_not_is_left_out",
    ),
    "DL-04": ("../test_dead_letter.py::test_no_answer_is_told_as_500_with_the_error",),
    "DL-05": (
        "../test_dead_letter.py::test_a_destination_tells_no_secret",
        "../test_dead_letter_sink.py::test_a_refusal_is_a_letter_and_its_caller_still_gets_the_refusal",
    ),
    "DL-06": ("../test_dead_letter.py::test_what_is_forwarded_has_the_extensions_of_knative_and_is_the_same_event",),
    "DL-07": (
        "../test_dead_letter.py::test_what_is_forwarded_has_the_extensions_of_knative_and_is_the_same_event",
        "../test_dead_letter.py::test_what_there_is_not_is_left_out",
        "../test_dead_letter.py::test_letters_can_be_forwarded_to_another_sink_instead",
        "../test_dead_letter_sink.py::test_a_store_that_fails_is_told_with_the_result_and_in_the_log",
    ),
    "DL-08": (
        "../test_dead_letter.py::test_a_reply_that_cannot_be_passed_on_makes_a_letter_of_the_event_with_where_the_reply_should_go",
    ),
    # SDK
    "SD-01": (
        "test_sdk.py::test_an_event_is_composed_sent_received_and_read",
        "test_sdk.py::test_events_are_sent_and_received_in_batches",
    ),
    "SD-02": ("test_sdk.py::test_events_are_encoded_and_decoded_without_any_transport",),
    "SD-03": ("test_sdk.py::test_data_is_unpacked_from_every_form",),
    "SD-04": ("test_sdk.py::test_an_event_is_composed_sent_received_and_read",),
    "SD-05": (
        "test_sdk.py::test_whatever_headers_and_body_raise_only_our_errors",
        "test_sdk.py::test_whatever_body_of_whatever_type_raises_only_our_errors",
        "test_sdk.py::test_whatever_attributes_raise_only_our_errors",
    ),
    "SD-06": ("test_sdk.py::test_the_usual_events_pass_in_both_modes",),
    "SD-07": ("test_sdk.py::test_an_event_is_read_as_it_was_written",),
    # CloudEvents SQL
    "CQ-01": (
        "test_cesql_conformance.py::test_a_case_of_the_conformance_kit_comes_out_as_it_says",
        "test_cesql_conformance.py::test_the_whole_kit_is_here",
    ),
    "CQ-02": ("test_cesql.py::test_there_are_three_types",),
    "CQ-03": (
        "test_cesql.py::test_evaluation_leaves_the_event_alone_and_says_the_same_again",
        "../test_cesql_properties.py::test_the_compiled_expression_says_what_the_interpreter_says",
    ),
    "CQ-04": ("test_cesql.py::test_the_kinds_of_errors_have_their_names",),
    "CQ-05": ("test_cesql.py::test_a_missing_attribute_is_an_error_and_a_zero_of_the_type",),
    "CQ-06": ("test_cesql.py::test_logic_stops_where_the_outcome_is_certain",),
    "CQ-07": (
        "test_cesql.py::test_and_or_and_xor_are_one_level_from_left_to_right",
        "test_cesql.py::test_operators_bind_in_their_order",
    ),
    "CQ-08": (
        "test_cesql.py::test_division_is_cut_towards_zero",
        "../test_cesql_properties.py::test_division_cuts_and_the_remainder_has_the_sign_of_the_dividend",
    ),
    "CQ-09": ("test_cesql.py::test_division_by_zero_is_zero_and_a_math_error",),
    "CQ-10": ("test_cesql.py::test_the_left_side_is_cast_to_the_type_of_the_right",),
    "CQ-11": (
        "test_cesql.py::test_a_set_is_not_empty",
        "test_cesql.py::test_elements_of_a_set_are_cast_to_the_type_of_the_left_side",
    ),
    "CQ-12": ("test_cesql.py::test_order_is_for_integers_alone",),
    "CQ-13": (
        "test_cesql.py::test_text_that_is_an_integer_is_read",
        "test_cesql.py::test_text_that_is_no_integer_is_zero_and_a_cast_error",
    ),
    "CQ-14": (
        "test_cesql.py::test_an_integer_is_cast_to_a_boolean_by_not_as_anywhere_else",
        "test_cesql.py::test_booleans_are_cast",
    ),
    "CQ-15": (
        "test_cesql.py::test_a_literal_beyond_32_bits_is_refused",
        "test_cesql.py::test_the_smallest_integer_is_a_literal_and_has_no_absolute_value",
    ),
    "CQ-16": ("test_cesql.py::test_an_overflow_is_zero_and_a_math_error",),
    "CQ-17": (
        "test_cesql_words.py::test_like_fits_the_whole_text",
        "test_cesql_words.py::test_like_takes_new_lines_and_casts_what_is_no_string",
        "test_cesql_words.py::test_the_pattern_of_like_is_a_literal_string",
        "../test_cesql_hostile.py::test_like_never_explodes",
        "../test_cesql_properties.py::test_like_says_what_a_recursive_matcher_says",
        "../test_cesql_properties.py::test_long_parts_with_wildcards_are_found_as_short_ones_are",
    ),
    "CQ-18": ("test_cesql_words.py::test_the_functions_do_what_they_say",),
    "CQ-19": (
        "test_cesql_words.py::test_a_function_that_is_not_there_is_false_and_an_error",
        "test_cesql_words.py::test_functions_of_ones_own_are_told_apart_by_arity",
        "../test_cesql.py::test_a_function_that_could_be_taken_for_another_is_refused",
    ),
    "CQ-20": (
        "test_cesql_words.py::test_a_quote_is_not_escaped_by_another_quote",
        "test_cesql_words.py::test_keywords_have_any_case_and_strings_keep_theirs",
    ),
    "CQ-21": (
        "test_cesql_words.py::test_an_attribute_named_as_a_keyword_cannot_be_addressed",
        "test_cesql_words.py::test_data_is_no_attribute",
        "test_cesql_words.py::test_names_may_begin_with_digits_but_digits_alone_are_a_number",
    ),
    "CQ-22": ("test_cesql_words.py::test_exists_is_true_for_what_is_there",),
    "CQ-23": (
        "test_cesql_words.py::test_what_is_no_expression_is_refused_with_its_place",
        "../test_cesql_properties.py::test_no_text_raises_anything_but_a_parse_error",
    ),
    "CQ-24": ("test_cesql_words.py::test_an_event_passes_if_the_value_is_true_and_nothing_went_wrong",),
    "CQ-25": (
        "test_cesql_words.py::test_deep_nesting_is_refused",
        "test_cesql_words.py::test_nesting_that_is_not_too_deep_is_taken",
    ),
    "CQ-26": (
        "test_cesql_words.py::test_trim_takes_no_other_control_character",
        "test_cesql_words.py::test_trim_takes_white_space",
    ),
    "CQ-27": ("test_cesql_words.py::test_a_time_is_the_text_that_came",),
    # Subscription filters
    "SF-01": ("test_filters.py::test_an_unknown_dialect_is_refused", "test_filters.py::test_every_dialect_is_there"),
    "SF-02": ("test_filters.py::test_all_filters_of_an_array_must_be_true",),
    "SF-03": (
        "test_filters.py::test_all_attributes_must_match_in_the_same_case",
        "test_filters.py::test_names_and_values_are_not_empty",
    ),
    "SF-04": ("test_filters.py::test_a_missing_attribute_matches_nothing",),
    "SF-05": ("test_filters.py::test_filters_within_filters_have_their_form",),
    "SF-06": ("test_filters.py::test_anything_else_is_refused",),
    "SF-07": ("test_filters.py::test_a_value_is_compared_by_its_canonical_text",),
    "SF-08": (
        "test_filters.py::test_sql_passes_what_is_true_without_an_error",
        "test_filters.py::test_what_is_no_sql_is_refused",
    ),
    "SF-09": (
        "test_filters.py::test_what_is_not_too_large_is_taken",
        "test_filters.py::test_what_is_too_large_is_refused_soon",
    ),
    # Hostile requests
    **dict.fromkeys(rows("18-", 1, 44), (HOSTILE,)),
    **dict.fromkeys(rows("18-", 48, 78), (HOSTILE,)),
    **dict.fromkeys(rows("18-", 80, 85), (HOSTILE,)),
    **dict.fromkeys(rows("18-", 87, 88), (HOSTILE,)),
    "18-25": (
        HOSTILE,
        "test_hostile_requests.py::test_a_request_that_is_no_http_leaves_neither_its_text_nor_a_traceback_in_the_log",
    ),
    "18-30": (
        HOSTILE,
        "test_hostile_requests.py::test_nothing_more_is_read_from_a_connection_whose_framing_is_in_doubt",
    ),
    "18-31": (
        HOSTILE,
        "test_hostile_requests.py::test_nothing_more_is_read_from_a_connection_whose_framing_is_in_doubt",
    ),
    "18-40": (
        HOSTILE,
        "test_hostile_requests.py::test_nothing_more_is_read_from_a_connection_whose_framing_is_in_doubt",
        "test_hostile_requests.py::test_a_peer_that_waits_for_100_continue_is_refused_before_it_sends_too_much",
    ),
    "18-45": ("test_hostile_requests.py::test_a_body_that_stalls_is_answered_408_and_the_connection_closed",),
    "18-46": ("test_hostile_requests.py::test_headers_that_stall_end_the_connection",),
    "18-47": ("test_hostile_requests.py::test_a_peer_that_leaves_in_the_middle_of_a_body_gets_nothing_handled",),
    "18-48": (HOSTILE, "test_hostile_requests.py::test_a_peer_that_waits_for_100_continue_gets_it"),
    "18-58": (HOSTILE, "test_hostile_requests.py::test_data_that_is_malformed_surfaces_when_it_is_read"),
    "18-60": (HOSTILE, "test_hostile_requests.py::test_data_that_is_malformed_surfaces_when_it_is_read"),
    "18-79": ("test_hostile_requests.py::test_batches_are_refused_where_batching_is_off",),
    "18-85": (HOSTILE, "test_hostile_requests.py::test_data_that_is_malformed_surfaces_when_it_is_read"),
    "18-89": ("test_hostile_requests.py::test_a_callback_url_in_a_handshake_is_never_called",),
    "18-96": (HOSTILE, "test_hostile_requests.py::test_a_duplicate_is_taken_like_the_first"),
    "18-97": ("test_hostile_requests.py::test_a_handler_that_raises_is_answered_500_without_a_trace",),
    "18-98": ("test_hostile_requests.py::test_an_overloaded_receiver_answers_503_with_retry_after",),
    "18-99": ("test_hostile_requests.py::test_a_retired_endpoint_answers_410",),
    # Hostile answers
    "18.1-a": (TRUTH_TABLE,),
    "18.1-b": ("test_retries.py::test_an_absurd_wait_is_cut_to_the_most", TRUTH_TABLE),
    "18.1-c": (TRUTH_TABLE,),
    "18.1-d": (TRUTH_TABLE,),
    "18.1-e": (TRUTH_TABLE, "../test_truth_table.py::test_a_bomb_is_not_inflated"),
    "18.1-f": (TRUTH_TABLE,),
    "18.1-g": (TRUTH_TABLE,),
    "18.1-h": (
        "test_responses.py::test_a_peer_that_is_lost_after_its_headers_has_accepted_but_not_replied",
        TRUTH_TABLE,
        "../test_sender_retry.py::test_the_deadline_holds_over_all_attempts",
    ),
    "18.1-i": ("../test_sender_retry.py::test_a_destination_that_is_gone_gets_nothing_more", TRUTH_TABLE),
    "18.1-l": (TRUTH_TABLE,),
    # Contradictions
    "decision 0.1": ("test_responses.py::test_a_success_says_whether_the_event_was_handled_answered_or_stored",),
    "decision 0.2": ("test_responses.py::test_unknown_formats_floods_and_retired_endpoints_have_their_statuses",),
    "decision 0.3": (
        "test_retries.py::test_a_status_that_may_change_is_retried",
        "test_retries.py::test_which_statuses_are_retried_is_a_setting_but_for_410",
    ),
    "decision 0.4": ("test_extensions.py::test_a_trace_that_an_event_has_is_never_replaced",),
    "decision 0.6": (
        "test_cesql.py::test_an_integer_is_cast_to_a_boolean_by_not_as_anywhere_else",
        "test_cesql_conformance.py::test_a_case_of_the_conformance_kit_comes_out_as_it_says",
    ),
    "decision 0.7": ("test_cesql.py::test_and_or_and_xor_are_one_level_from_left_to_right",),
    "decision 0.8": ("test_cesql_words.py::test_the_case_of_a_name_does_not_matter",),
    "decision 0.9": ("test_cesql_words.py::test_a_sign_after_a_value_is_an_operator",),
    "decision 0.10": ("test_cesql.py::test_a_missing_attribute_is_an_error_and_a_zero_of_the_type",),
    "decision 0.14": ("../test_dead_letter.py::test_the_data_is_cut_after_1024_characters_of_base64",),
    "decision 0.15": ("test_event_model.py::test_a_dataschema_is_an_absolute_uri",),
    "decision 0.16": (
        "test_type_system.py::test_a_leap_second_is_kept_as_text_and_read_as_the_last_microsecond_before_it",
    ),
}
