"""Everything a training step needs: pure functions over a plain pytree state."""
