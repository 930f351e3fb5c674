"""The command `broker check`: examines and repairs a data directory that no broker uses."""
