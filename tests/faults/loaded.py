"""``fastseg.load`` as a command, for the tests that bound and measure one."""

import sys

import fastseg


def main() -> None:
    """Load the checkpoint that the command line names."""
    fastseg.load(sys.argv[1], "cpu")
