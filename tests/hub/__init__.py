"""The Hub, the model card, and lists of runs."""
