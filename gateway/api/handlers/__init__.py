"""One module for each group of operations in openapi.yaml."""
