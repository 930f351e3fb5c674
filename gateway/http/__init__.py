"""The HTTP/1.1 server inside a worker: connections, framing, TLS. Knows no queue and no lease."""
