"""What a machine has, and what of it works: the checks of fastseg-doctor."""
