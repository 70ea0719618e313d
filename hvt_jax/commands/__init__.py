"""One short file a command: flags, one call, an exit code."""
