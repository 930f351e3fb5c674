"""The HTTP edge: openapi.yaml, routes, parameters, negotiation, answers. Knows Starlette, but no sockets."""
