"""A hostile tenant against another one: `python -m tests.hostile --seconds 60`."""
