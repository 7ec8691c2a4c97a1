"""Features of a frozen network, computed once; the linear probe."""
