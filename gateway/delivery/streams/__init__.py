"""Streams: a consumer gets jobs as they come, each under a lease of its own. Knows no HTTP."""
