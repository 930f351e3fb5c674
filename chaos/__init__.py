"""What the gateway promises, tried while everything around it is killed and frozen. `python -m chaos` runs it.

Owns its clients, its schedule of kills, its ledger of every answer and the checker that reads it. It starts every
process it touches, on loopback; the gateway knows nothing of it.
"""
