"""The figures of a gateway, and `/metrics`."""
