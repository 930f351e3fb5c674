"""How tenants share limited resources: in turns, in parts, and by time of the event loop. No I/O."""
