"""What is done with a trained network: predicting files, exporting it."""
