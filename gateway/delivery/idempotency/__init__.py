"""Idempotent enqueues, and the file that remembers their keys."""
