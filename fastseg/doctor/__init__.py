"""Check what a machine has and what works: fastseg-doctor."""
