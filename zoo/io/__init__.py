"""Files, text and structured text."""
