"""The processes of `serve`: supervisor, workers, and their channels. Only cli.py and `doctor` import it."""
