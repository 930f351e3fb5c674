"""The use cases: enqueue, take, look after queues. Knows no HTTP and no sockets."""
