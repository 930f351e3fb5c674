"""What the embedded broker and the rest of the gateway have in common. It imports nothing of either."""
