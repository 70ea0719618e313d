"""Layers that know nothing of video."""
