"""Train: the run, its loop, its step, and what it writes."""
