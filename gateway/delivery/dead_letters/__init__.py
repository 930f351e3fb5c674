"""Dead letters: stored, inspected, and sent back to their queue."""
