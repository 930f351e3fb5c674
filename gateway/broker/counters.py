"""Counts since the start, as `stats` and `dump_stats` show them. Everything that serves clients counts here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class BrokerCounters:
    """Of all connections together."""

    curr_connections: int = 0
    total_connections: int = 0
    total_items: int = 0
    cmd_get: int = 0
    cmd_set: int = 0
    cmd_peek: int = 0
    get_hits: int = 0
    get_misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    queue_expires: int = 0


@dataclass(slots=True)
class QueueCounters:
    """Of one queue. transactions: open reads that were opened; canceled: those that were given back or timed out."""

    total_items: int = 0
    expired_items: int = 0
    discarded: int = 0
    transactions: int = 0
    canceled_transactions: int = 0
    total_flushes: int = 0
