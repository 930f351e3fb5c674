"""Names of tenants, queues and children, and patterns of names. Pure functions, no I/O."""
