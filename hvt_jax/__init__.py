"""Self-supervised training of factorized hierarchical video transformers, each level locally."""

__version__ = "0.1.0"
# So that `python -m hvt_jax.COMMAND` starts what `python -m hvt_jax COMMAND` does, as with `hvt_jax.main`.
__path__.append(f"{__path__[0]}/commands")
