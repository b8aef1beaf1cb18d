"""``python -m bench.docs``: see documents.py."""

from bench.docs.documents import main
from fastseg.errors import run_command

run_command(main)
