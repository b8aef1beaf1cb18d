"""What ``import fastseg`` offers beside the network: packing and training as calls of Python."""
