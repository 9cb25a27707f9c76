"""`python -m fastdb`."""

from fastdb.cli import main

if __name__ == "__main__":
    main()
