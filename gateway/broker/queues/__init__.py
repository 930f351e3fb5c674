"""The queues in memory: items in order, open reads and waiters. Knows no client protocol."""
