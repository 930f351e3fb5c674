"""Delayed jobs: they are on holding queues on Kestrel until they are due."""
