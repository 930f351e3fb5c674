"""Queues of a tenant: their names, how many there may be, and looking after them."""
