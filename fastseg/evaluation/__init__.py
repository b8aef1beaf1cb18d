"""Predictions to numbers: the evaluator, its metrics, two models side by side, Cityscapes' own files."""
