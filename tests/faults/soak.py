"""How long ``make soak`` goes on: ``FASTSEG_SOAK=1`` kills, stops, cuts, flips and fills ten times as often."""

import os

SOAK = bool(os.environ.get("FASTSEG_SOAK"))
TIMES = 10 if SOAK else 1
"""By which a test multiplies how often it kills or tries; the fixture ``again`` repeats one as often."""
