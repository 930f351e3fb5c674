"""Large items: stored in parts, between which other items are written."""
