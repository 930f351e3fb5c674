"""The envelope: a job stored as bytes that every client of the queues can read. Pure functions, no I/O."""
