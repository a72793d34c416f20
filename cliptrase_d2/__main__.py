"""``python -m cliptrase_d2`` is the command ``cliptrase``."""

from cliptrase_d2.demo.cli import main

if __name__ == "__main__":
    main()
