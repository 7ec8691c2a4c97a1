"""Image datasets: sources, splits, decoding, transforms."""
