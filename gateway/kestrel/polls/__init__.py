"""Long polls: the waiters of each queue, their gets on each server, and what happens to each item."""
