"""`python -m scratchlab` is the `scratchlab` command."""

from scratchlab.cli.main import main

if __name__ == "__main__":
    main()
