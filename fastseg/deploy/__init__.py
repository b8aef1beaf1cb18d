"""Use a trained network: predict files, export it."""
