"""The HTTP edge: openapi.yaml, routes, parameters, negotiation, answers. The only layer that knows HTTP."""
