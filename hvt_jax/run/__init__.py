"""One run: the loop and all that it keeps - folder, checkpoints, metrics, log, report."""
