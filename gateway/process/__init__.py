"""The processes: supervisor, workers, and the HTTP server inside a worker. Only cli.py imports it."""
