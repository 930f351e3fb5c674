"""Puts: which server takes an item, and how puts travel together."""
