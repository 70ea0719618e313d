"""Timing of the training step against its PyTorch twin; needs the `benchmark` extra."""
