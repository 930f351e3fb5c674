"""The road from an old Kestrel: its journals, and moving the jobs of a server that runs."""
