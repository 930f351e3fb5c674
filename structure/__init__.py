"""Figures of the program's structure: what a request calls as it runs, and what the sources show."""
