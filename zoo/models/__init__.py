"""Turn a backbone into a classifier: build, head, parameter groups, freezing, optimizer."""
