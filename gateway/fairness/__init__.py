"""How tenants share limited resources: in turns and in parts. Pure functions and values, no I/O."""
