"""``python -m cliptrase_d2.demo`` is ``cliptrase segment``."""

import sys

from cliptrase_d2.demo.cli import main

if __name__ == "__main__":
    main(["segment", *sys.argv[1:]])
