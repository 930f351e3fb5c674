"""Streams: a consumer gets jobs as they arrive, each under a lease of its own. Knows no HTTP."""
