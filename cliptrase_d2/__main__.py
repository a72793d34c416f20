"""``python -m cliptrase_d2`` is the command ``cliptrase``."""

from cliptrase_d2.cli.main import main

if __name__ == "__main__":
    main()
