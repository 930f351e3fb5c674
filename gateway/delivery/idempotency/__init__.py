"""Idempotent enqueues, and the file that remembers them."""
