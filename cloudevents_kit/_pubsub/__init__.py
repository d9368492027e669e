"""What `cloudevents_kit.pubsub` is made of."""
