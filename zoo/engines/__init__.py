"""Computation of a network by the runtimes of exporters; conversion, measurement."""
