"""Ranks: how they start, what they exchange, how one that hangs or fails is noticed."""
