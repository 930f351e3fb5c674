"""The client side of Kestrel. The layers above use `cluster.Kestrel`, `waiting.Waiter` and `reads.OpenRead`."""
