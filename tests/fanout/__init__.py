"""Subscriptions: over HTTP, on several servers, and with the races of a real Kestrel."""
