"""The figures of all queues, gathered in the background, and their last hour."""
