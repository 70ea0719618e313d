"""Frozen features and what is read from them: neighbours, figures, the report of a run."""
