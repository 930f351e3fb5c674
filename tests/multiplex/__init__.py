"""Tests of the multiplexed connection between workers and the embedded broker."""
