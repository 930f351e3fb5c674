"""The page at `/ui/` and the reference at `/docs`: files and texts. Knows no requests."""
