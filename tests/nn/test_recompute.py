import jax
import jax.numpy as jnp
import numpy as np

from hvt_jax.nn.recompute import recomputed


def _scaled(tree, x, mask):
    shown = jnp.sin(x @ tree["kernel"]) * mask[:, None]
    return shown, tree["unused"] + shown.sum()


def _arguments():
    keys = jax.random.split(jax.random.key(0), 2)
    tree = {"kernel": jax.random.normal(keys[0], (3, 2)), "unused": jnp.float32(2)}
    return tree, jax.random.normal(keys[1], (4, 3)), jnp.array([True, False, True, True])


def _gradients(function, weight):
    def loss(tree, x, mask):
        shown, total = function(tree, x, mask)
        return weight * (jnp.square(shown).sum() + total)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*_arguments())


def test_values_and_gradients_are_those_of_the_function():
    for found, expected in zip(
        jax.tree.leaves(_gradients(recomputed(_scaled), 3.0)), jax.tree.leaves(_gradients(_scaled, 3.0)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nothing_is_computed_again_for_a_gradient_of_nothing():
    def steep(tree, x, mask):  # its gradient is infinite, so that nothing times it is NaN
        shown, total = _scaled(tree, 0 * x, mask)
        return jnp.sqrt(shown), total

    plain, behind_a_choice = (_gradients(function, 0.0)[1] for function in (steep, recomputed(steep)))
    assert np.isnan(plain[1]).any()
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(behind_a_choice))


def test_nan_is_no_gradient_of_nothing():
    _, gradients = _gradients(recomputed(_scaled), jnp.nan)
    assert np.isnan(gradients[1]).any()


def test_only_arguments_are_kept():
    kept = jax.tree.leaves(jax.vjp(recomputed(_scaled), *_arguments())[1])
    sizes = sorted(leaf.shape for leaf in kept)
    assert sizes == sorted(leaf.shape for leaf in jax.tree.leaves(_arguments()))


def test_what_is_not_kept_is_not_there_while_other_gradients_are_made():
    """In the program as it is compiled, where `jax.checkpoint` may be undone."""
    rows, width = 4096, 64

    def temporaries(wrap):
        def loss(kernel, x):
            parts = wrap(lambda x, kernel: jnp.sin(x @ kernel))(x, kernel).reshape(8, -1, width)
            layers = jax.checkpoint(lambda part: jnp.tanh(jnp.tanh(part @ kernel) @ kernel))
            return jnp.square(jax.lax.map(layers, parts)).sum()

        shapes = [jax.ShapeDtypeStruct((size, width), "float32") for size in (width, rows)]
        return jax.jit(jax.grad(loss)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(recomputed) < temporaries(lambda function: function) - 3 * rows * width  # of an array's 4
