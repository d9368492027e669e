"""What `cloudevents_kit.dead_letter` is made of."""
