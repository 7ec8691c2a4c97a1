"""Devices, memory, processes, and how fast this machine computes."""
