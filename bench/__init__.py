"""What the gateway costs, measured beside a bare Starlette echo in one run. `python -m bench` prints it.

Owns its own load generator and starts every server it measures; changes nothing outside bench/results.
"""
