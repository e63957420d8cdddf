"""What docs/results.md, speed.md and experiments.md were measured with."""
