"""``python -m ignite_imgtools``: the same as the console script ``ignite-imgtools``."""

from ignite_imgtools.cli import run

if __name__ == "__main__":
    run()
