"""`python -m gateway` is `kestrel-gateway`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
