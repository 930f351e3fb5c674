"""The use cases: enqueue, take, manage queues. Knows no HTTP and no sockets."""
