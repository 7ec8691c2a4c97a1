"""Where images come from: folders, splits, decoding, transforms."""
