"""Tests of the limits of delivery."""
