"""`python -m funnelcast` is the command `funnelcast`."""

from funnelcast.cli import main

if __name__ == "__main__":
    main()
