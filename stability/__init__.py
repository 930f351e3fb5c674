"""Whether openapi.yaml still serves the clients of the last release. Imports nothing of the gateway."""
