"""What people need around training: conversions, scans, the loader's doctor, the making of digits."""
