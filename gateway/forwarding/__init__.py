"""Finds the worker or replica that holds a lease, and settles the lease there. Knows no HTTP edge."""
