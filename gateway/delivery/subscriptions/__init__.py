"""Subscriptions: fanout children of a queue. Each gets a copy of every job that is enqueued to the queue."""
