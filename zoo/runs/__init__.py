"""The run folder: written, read, used to predict and to evaluate."""
