"""The broker's side of the multiplexed connection with a worker: many operations and open reads at the same time."""
