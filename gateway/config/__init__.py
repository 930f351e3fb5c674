"""The files that an operator writes: keys, policies and secrets, read and validated as a whole. Knows no HTTP."""
