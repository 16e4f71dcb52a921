"""Train in several processes on this machine, as a cluster does on several machines.

The same as the command `tf-cyclegan workers`: see tf_cyclegan/cli/workers.py.
"""

from tf_cyclegan.cli.workers import cli

if __name__ == "__main__":
    cli()
