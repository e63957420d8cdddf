"""What docs/results.md was measured with."""
