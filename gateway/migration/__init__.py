"""Moves jobs from an old Kestrel: from its journals, or from a server that runs."""
