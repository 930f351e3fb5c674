"""kestrel-gateway: jobs over HTTP onto Kestrel queues and back."""

__version__ = "0.1.0"
