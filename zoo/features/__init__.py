"""What a frozen network gives for images, computed once; the linear probe."""
