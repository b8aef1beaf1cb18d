"""Command lines: each parses its arguments, launches ranks and calls one function."""
