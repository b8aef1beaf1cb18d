"""What training is fed: measured, and shown on a page."""
