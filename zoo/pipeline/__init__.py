"""The main jobs, each on one page: fine-tune, resume; phases, and what a run writes."""
