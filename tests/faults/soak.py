"""How often a fault is done again.

``FASTSEG_SOAK=1``, as ``make soak`` sets it, kills, stops, cuts, flips and fills ten times as often;
``FASTSEG_FAULTS=few``, as ``make test`` sets it, a fraction as often.
"""

import os

SOAK = bool(os.environ.get("FASTSEG_SOAK"))
TIMES = 10 if SOAK else 1
"""By which a test multiplies how often it kills or tries; the fixture ``again`` repeats one as often."""
THOROUGH = os.environ.get("FASTSEG_FAULTS") != "few"
"""Whether a test kills as often as docs/faults.md says."""
HISTORIES = int(os.environ.get("FASTSEG_HISTORIES", "15"))
"""Over how many random histories a run's records are checked; ``make faults`` and ``make soak`` ask for 2,000."""
