"""kestrel-gateway: jobs over HTTP, with Kestrel queues or an embedded broker."""

__version__ = "0.2.0.dev0"
