"""The client side: where the gateway is, calls to it, and the commands of a terminal. It speaks nothing but HTTP."""
