"""The disk: one SQLite file, written in batches by one thread and read by another. Knows no queue in memory."""
