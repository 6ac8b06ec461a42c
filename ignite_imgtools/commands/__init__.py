"""Commands of the command line that are more than a call of a recipe: one file each.

A module has a dataclass ``Arguments``, from which the command line is generated, a ``DESCRIPTION``, and
``run(arguments)``, which returns the text to be printed. What it needs beyond that it imports when it runs.
"""
