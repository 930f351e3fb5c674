"""Batches: many jobs under one lease."""
