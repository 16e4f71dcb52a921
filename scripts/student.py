"""Train a small generator, a student, to return the images of a trained one, its teacher.

The same as the command `tf-cyclegan student`: see tf_cyclegan/cli/student.py.
"""

from tf_cyclegan.cli.student import cli

if __name__ == "__main__":
    cli()
