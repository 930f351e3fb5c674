"""Queues of a tenant: their names, their number, and managing them."""
