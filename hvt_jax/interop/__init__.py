"""Import and export of parameters."""
