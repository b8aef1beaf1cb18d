"""The run: its parts, the loop, the step, and what it leaves behind."""
