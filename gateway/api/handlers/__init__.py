"""The handlers of the HTTP operations, one module per subject."""
