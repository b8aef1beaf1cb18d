"""From batches to logits and loss; weights and checkpoints."""
