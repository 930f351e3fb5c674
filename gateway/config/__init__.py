"""The files that an operator writes: keys, policies and secrets, read and checked as a whole. Knows no HTTP."""
