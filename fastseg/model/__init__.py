"""Batches to logits and loss; weights and checkpoints."""
