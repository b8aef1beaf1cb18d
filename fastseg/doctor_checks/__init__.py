"""The checks of ``fastseg-doctor``: each a function that returns rows, run in a process of its own."""
