"""Settlements whose lease belongs to another worker or replica: found, sent there, answered. Knows no HTTP edge."""
