"""Packing of image and mask files into tar shards."""
