"""Command lines: each parses its arguments, launches ranks and calls one function."""

import os

# Threads of OpenMP that wait for work spin by default, and keep the cores from whoever has some: beside other jobs a
# network on a CPU was ten to twenty times slower. torch's OpenMP reads this when it is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
