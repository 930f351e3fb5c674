"""Delayed jobs: they lie on holding queues on Kestrel until they are due."""
