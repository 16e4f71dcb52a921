"""Build a web page that translates photos in the visitor's browser, and serve it on this machine.

The same as the command `tf-cyclegan page`: see tf_cyclegan/cli/page.py.
"""

from tf_cyclegan.cli.page import cli

if __name__ == "__main__":
    cli()
