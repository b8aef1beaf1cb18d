"""Bytes to batches: what a crop shows, its bytes, the DALI graph, batches for one rank."""
