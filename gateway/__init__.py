"""kestrel-gateway: jobs over HTTP onto Kestrel queues and back."""

__version__ = "0.2.0.dev0"
