"""Self-supervised training of factorized hierarchical video transformers, each level locally."""

__version__ = "0.1.0"
