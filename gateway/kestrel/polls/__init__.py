"""Long polls: who waits for a queue, which gets are on which server for that, and what becomes of each item."""
