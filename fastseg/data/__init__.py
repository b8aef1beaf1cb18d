"""From bytes to batches: draw crops, read records, run the DALI graph, make batches for one rank."""
