"""Configs: each file is a document that overrides `default.py`."""
