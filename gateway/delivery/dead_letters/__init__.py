"""Dead letters: stored, inspected, and moved back to their queue."""
