"""The training loop and what it reports while it runs."""
