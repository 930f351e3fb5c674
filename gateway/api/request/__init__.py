"""What a request says: parameters, headers and bodies, read and checked."""
