"""What the gateway costs, measured against a bare Starlette echo in the same run. `python -m bench` prints it.

Owns its own load generator and starts every server it measures; changes nothing outside bench/results.
"""
