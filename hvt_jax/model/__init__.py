"""The hierarchy as modules."""
