"""The client side of Kestrel. The layers above use client.py, which implements gateway.delivery.backend."""
