"""Limits on how many jobs of a queue are in flight, and on how many are delivered in a second."""
