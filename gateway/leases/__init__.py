"""Leases: a consumer's claim to a job. Knows no HTTP and no Kestrel, only the open read of the job."""
