"""The one training loop of both stages, its optimizer, checkpoints, devices and logs."""
