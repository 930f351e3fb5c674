"""Commands for those who run a gateway: backup, doctor, and warnings about the environment."""
