"""Command lines: each parses its arguments, launches ranks and calls one function."""

import os

# Threads of OpenMP that wait spin for milliseconds by default, and keep the cores from whoever has work: beside
# other jobs a network on a CPU was ten to twenty times slower. These spin for an instant, so that they are
# still awake for the next of many short operations, and then sleep. torch's OpenMP reads this when it is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
