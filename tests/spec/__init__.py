"""The conformance suite: one test, or one reason, for every number of the CloudEvents checklist (see `table`)."""
