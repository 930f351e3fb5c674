"""One Kestrel server: its connections, its state, and calls on it."""
