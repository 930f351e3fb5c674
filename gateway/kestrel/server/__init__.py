"""One Kestrel server: its connections, its state, and commands on it."""
