"""The protocol between a worker and the embedded broker: many operations and open reads on one connection.

docs/broker.md, "The multiplexed connection", specifies it.
"""
