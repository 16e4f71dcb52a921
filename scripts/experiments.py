"""Train variants of one setting with equal budgets and seeds, and compare them.

The same as the command `tf-cyclegan experiments`: see tf_cyclegan/cli/experiments.py.
"""

from tf_cyclegan.cli.experiments import cli

if __name__ == "__main__":
    cli()
