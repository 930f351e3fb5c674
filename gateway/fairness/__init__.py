"""How tenants share what is limited: in turns, and in parts. Pure functions and values, no I/O."""
