"""The processes of `serve`: supervisor, workers, and their channels. Only cli.py imports it."""
