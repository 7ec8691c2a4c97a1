"""Fine-tuning and resuming: the main functions, the stages of a run, writing the run folder."""
