"""Processes, ports and clients for whatever runs a gateway or a broker: tests, bench, chaos and stability."""
