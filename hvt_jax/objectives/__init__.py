"""Tokens and edges in, losses by level and edge out; the only place that stops targets."""
