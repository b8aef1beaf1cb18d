"""Files to tar shards."""
