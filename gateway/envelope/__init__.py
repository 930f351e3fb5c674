"""The envelope: how a job is stored as bytes that every client of the queues can read. Pure functions, no I/O."""
