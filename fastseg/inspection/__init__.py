"""Inspection of the data that training sees: measurements, and an HTML page."""
