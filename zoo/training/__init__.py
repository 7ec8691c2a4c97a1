"""The training loop, with validation, checkpoints and recovery from divergence."""
