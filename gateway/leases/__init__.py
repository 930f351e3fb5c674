"""Leases: what a consumer holds of a job. Knows no HTTP and no Kestrel, only the open read it was given."""
