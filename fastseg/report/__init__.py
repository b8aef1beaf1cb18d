"""A run's folder, and the page made of it."""
