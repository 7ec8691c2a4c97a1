"""Run folders: writing, reading, prediction and evaluation."""
