"""From predictions to numbers: the evaluator, its metrics, the comparison of two models, Cityscapes' own files."""
