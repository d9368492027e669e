"""What `cloudevents_kit.event_log` is made of."""
