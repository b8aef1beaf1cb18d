"""Command lines: each parses, launches and calls one thing."""
