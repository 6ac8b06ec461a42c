"""``python -m ignite_imgtools``: the same as the console script ``ignite-imgtools``."""

import sys

from ignite_imgtools.cli import main

if __name__ == "__main__":
    sys.exit(main())
