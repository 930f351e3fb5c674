"""What everyone who touches the queues agrees on: names and envelopes. Pure functions, no I/O."""
