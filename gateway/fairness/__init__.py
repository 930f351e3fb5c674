"""How tenants share time: in turns, and by time of the event loop. No I/O."""
