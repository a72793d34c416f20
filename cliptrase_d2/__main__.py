"""Run the command-line program with ``python -m cliptrase_d2``."""

from cliptrase_d2.cli.main import main

if __name__ == "__main__":
    main()
