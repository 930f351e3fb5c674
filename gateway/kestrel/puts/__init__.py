"""Puts: which server gets an item, and which items are sent together."""
