"""The report of a run: one HTML file with figures, plots and images, without scripts."""
