"""Utilities for files, text, JSON and TOML."""
