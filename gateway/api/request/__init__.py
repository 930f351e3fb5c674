"""Reading and validating requests: parameters, headers and bodies."""
