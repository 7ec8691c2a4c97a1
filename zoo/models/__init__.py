"""A backbone becomes a classifier: build, head, parameter groups, freezing, optimizer."""
