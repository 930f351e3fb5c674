"""The worker's side of the multiplexed connection to the embedded broker, as a link to one server."""
