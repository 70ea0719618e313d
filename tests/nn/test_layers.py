"""Norms with masks by hand, attention, and the transformer's ways of running the same layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from hvt_jax.nn import convolution, cpu, fused_attention, keys, normalization
from hvt_jax.nn.activation import gelu
from hvt_jax.nn.attention import SelfAttention, attend
from hvt_jax.nn.linear import Linear
from hvt_jax.nn.positions import LearnedTable
from hvt_jax.nn.transformer import Transformer, TransformerLayer, layer_name
from tests import small

ROWS = np.array([[1.0, -2.0], [3.0, 0.0], [8.0, -1.0]])


@pytest.mark.parametrize("one_pass", [False, True])
def test_batch_norm_by_hand(one_pass):
    norm = normalization.BatchNorm(2, momentum=0.75, epsilon=0.0, one_pass=one_pass)
    # Means 4, -1; biased variances 26/3, 2/3; unbiased 13, 1.
    out = norm(jnp.asarray(ROWS), train=True)
    np.testing.assert_allclose(out, (ROWS - [4, -1]) / np.sqrt([26 / 3, 2 / 3]), rtol=1e-5)
    np.testing.assert_allclose(norm.mean[...], [1.0, -0.25], rtol=1e-6)
    np.testing.assert_allclose(norm.var[...], [0.75 + 0.25 * 13, 1.0], rtol=1e-6)
    norm.scale[...], norm.bias[...] = jnp.array([2.0, 1.0]), jnp.array([0.0, 5.0])
    out = norm(jnp.zeros((1, 2)), train=False)
    np.testing.assert_allclose(out, [[2 * (0 - 1) / 2, 5 + 0.25]], rtol=1e-6)


@pytest.mark.parametrize("one_pass", [False, True])
def test_batch_norm_does_not_see_masked_rows(one_pass):
    junk = np.array([[1e5, -1e5]])

    @jax.jit
    def run(rows, valid):
        norm = normalization.BatchNorm(2, one_pass=one_pass)
        return norm(rows, train=True, valid=valid), norm.mean[...], norm.var[...]

    expected, *alone = run(ROWS, None)
    found, *masked = run(np.concatenate([ROWS[:1], junk, ROWS[1:]]), np.array([True, False, True, True]))
    np.testing.assert_allclose(np.asarray(found)[[0, 2, 3]], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(masked, alone, rtol=1e-6)


@pytest.mark.parametrize("valid", [None, [True, False, False], [False, False, False]])
@pytest.mark.parametrize("one_pass", [False, True])
def test_batch_norm_is_finite_on_constant_rows(one_pass, valid):
    norm = normalization.BatchNorm(2, one_pass=one_pass)
    mask = None if valid is None else np.array(valid)

    def loss(x):
        copy = nnx.clone(norm)
        return jnp.square(copy(x, train=True, valid=mask)).sum(), (copy.mean[...], copy.var[...])

    run = jax.jit(jax.grad(loss, has_aux=True))
    for rows in (np.zeros((3, 2)), np.full((3, 2), 1e4)):
        gradient, statistics = run(rows)
        assert np.isfinite(gradient).all() and np.isfinite(statistics).all()


def test_batch_norm_keeps_digits_of_a_small_spread_around_a_large_mean():
    rows = 1e4 + np.array([[0.0], [1.0], [2.0]])
    out = normalization.BatchNorm(1, epsilon=0.0)(jnp.asarray(rows), train=True)
    np.testing.assert_allclose(out, [[-np.sqrt(1.5)], [0], [np.sqrt(1.5)]], atol=1e-3)


def test_norms_by_name():
    assert isinstance(normalization.make_norm("batch", 3, jnp.float32), normalization.BatchNorm)
    layer = normalization.make_norm("layer", 3, jnp.float32)
    np.testing.assert_allclose(layer(jnp.array([[0.0, 1, 2]])), [[-np.sqrt(1.5), 0, np.sqrt(1.5)]], rtol=1e-4)
    assert normalization.make_norm("none", 3, jnp.float32) is None
    x = jnp.ones((2, 3))
    assert normalization.apply_norm(None, x, train=True, valid=None) is x


def test_attention_is_that_of_jax_and_causal_rows_see_no_later_one():
    query, key, value = np.random.default_rng(0).normal(size=(3, 2, 3, 5, 4)).astype(np.float32)

    @functools.partial(jax.jit, static_argnames="causal")
    def run(*parts, causal):
        expected = jax.nn.dot_product_attention(*(x.swapaxes(1, 2) for x in parts), is_causal=causal)
        return attend(*parts, causal=causal), expected.swapaxes(1, 2)

    for causal in (False, True):
        found, expected = run(query, key, value, causal=causal)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found[:, :, 0], value[:, :, 0], rtol=1e-6)


def test_learned_table_by_hand():
    table = LearnedTable(3, 2, rngs=nnx.Rngs(params=0))
    rows = np.asarray(table.table[...])
    np.testing.assert_array_equal(table.look_up(jnp.array([[2, 0]]), jnp.float32), rows[[2, 0]][None])
    np.testing.assert_array_equal(table(jnp.bfloat16), rows.astype(jnp.bfloat16))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 3), (1, 2)])
def test_halving_is_a_max_pool_of_3_with_stride_2(height, width):
    x = np.random.default_rng(0).normal(size=(2, height, width, 3, 2)).astype(np.float32)
    pad = ((0, 0), (1, 1), (1, 1), (0, 0), (0, 0))

    @jax.jit
    def run(x):
        expected = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1, 1), (1, 2, 2, 1, 1), pad)
        return convolution.halve_space(x), jnp.moveaxis(expected, 3, 1)

    np.testing.assert_array_equal(*run(x))


def _gradients(function, *arguments):
    out, transposed = jax.vjp(function, *arguments)
    return out, *transposed(jnp.asarray(np.random.default_rng(9).normal(size=out.shape), out.dtype))


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("frames", [1, 2, 5, 11])  # below, at and above the most that are multiplied at once
def test_written_gradients_of_temporal_convolutions_are_those_of_jax(frames, size, x64):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 6, frames, 4)), rng.normal(size=(size, 4, 3))
    _assert_written_is_derived(convolution.convolve_time, x, kernel)


@pytest.mark.parametrize("rows, columns", [(1, 1), (3, 3), (5, 5), (1, 3), (5, 3)])
@pytest.mark.parametrize("channels", [(4, 3), (2, 11)])  # written differently for few channels on the way in
def test_written_gradients_of_spatial_convolutions_are_those_of_jax(rows, columns, channels, x64):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 3, 6, 7, channels[0])), rng.normal(size=(rows, columns, *channels))
    _assert_written_is_derived(convolution.convolve, x, kernel)


def _assert_written_is_derived(function, x, kernel):
    run = jax.jit(lambda *arguments: [_gradients(each, *arguments) for each in (function, function.fun)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *run(x, kernel))


def test_the_switch_leaves_gradients_to_jax(monkeypatch):
    x, kernel = jnp.ones((1, 2, 4, 4, 3)), jnp.ones((3, 3, 3, 2))
    assert "platform_index" in str(jax.make_jaxpr(jax.grad(lambda k: convolution.convolve(x, k).sum()))(kernel))
    monkeypatch.setattr(cpu, "WRITTEN", False)
    assert "platform_index" not in str(jax.make_jaxpr(jax.grad(lambda k: convolution.convolve(x, k).sum()))(kernel))


def test_written_gradients_of_gelu_and_of_rows_are_those_of_jax(x64):
    x = np.random.default_rng(0).normal(size=(5, 7)) * 3
    for written, derived in (
        (gelu, lambda x: jax.nn.gelu(x, approximate=False)),
        (lambda x: normalization.standardise(x, 1e-5), lambda x: jax.nn.standardize(x, epsilon=1e-5)),
    ):
        found, expected = jax.jit(lambda x, both=(written, derived): [_gradients(each, x) for each in both])(x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-13), found, expected)


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_norm_folded_into_a_linear_map_is_the_norm_before_it(use_bias, x64):
    linear = Linear(5, 3, use_bias=use_bias, dtype=jnp.float64, rngs=nnx.Rngs(params=0))
    norm = normalization.LayerNorm(5, dtype=jnp.float64)
    rng = np.random.default_rng(1)
    norm.scale[...], norm.bias[...] = map(jnp.asarray, rng.normal(size=(2, 5)))
    folded, before = jax.jit(lambda x: (linear(x, norm), linear(norm(x))))(rng.normal(size=(4, 6, 5)))
    np.testing.assert_allclose(folded, before, atol=1e-12)


def _transformer(**changes):
    options = {"depth": 3, "causal": False, "dropout": 0.0, "remat": False, "scan": False, **changes}
    sizes = {"num_heads": 2, "head_width": 4, "mlp_width": 12}
    dtype = jnp.zeros(()).dtype  # double precision where the test asks for it
    return Transformer(8, dtype=dtype, rngs=nnx.Rngs(params=0), **options, **sizes)


def _loss_and_gradients(transformer, key):
    graphdef, params = nnx.split(transformer, nnx.Param)
    tokens = jax.random.normal(jax.random.key(5), (2, 4, 8))

    def run(params):
        return jnp.square(nnx.merge(graphdef, params)(tokens, key) @ jnp.arange(8.0)).mean()

    return jax.device_get(jax.jit(jax.value_and_grad(run))(nnx.to_pure_dict(params)))


def test_scan_and_remat_change_nothing_but_cost(x64):
    key, dropout = jax.random.key(1), 0.3
    plain, gradients = _loss_and_gradients(_transformer(dropout=dropout), key)
    for changes in ({"scan": True}, {"remat": True}, {"scan": True, "remat": True}):
        loss, found = _loss_and_gradients(_transformer(dropout=dropout, **changes), key)
        assert float(loss) == pytest.approx(float(plain), rel=1e-12)
        assert jax.tree.structure(found) == jax.tree.structure(gradients)
        assert small.largest_difference(gradients, found) < 1e-12


@pytest.mark.parametrize("changes", [{}, {"causal": True}, {"scan": True, "remat": True}, {"depth": 1}, {"depth": 0}])
def test_outputs_that_nobody_asks_for_are_left_out_without_a_change(changes, x64):
    graphdef, params = nnx.split(_transformer(**changes), nnx.Param)
    tokens = jax.random.normal(jax.random.key(5), (2, 4, 8))

    def run(params, tokens, num_outputs):
        kept = nnx.merge(graphdef, params)(tokens, None, num_outputs=num_outputs)[:, :1]
        return jnp.sin(kept @ jnp.arange(8.0)).sum(), kept

    def everything(num_outputs):
        gradient = jax.value_and_grad(run, argnums=(0, 1), has_aux=True)
        return jax.device_get(jax.jit(gradient, static_argnums=2)(nnx.to_pure_dict(params), tokens, num_outputs))

    assert small.largest_difference(everything(None), everything(1)) < 1e-12


def test_outputs_that_nobody_asks_for_cost_nothing():
    transformer, tokens = _transformer(depth=1), jnp.ones((2, 4, 8))

    def flops(num_outputs):
        run = jax.jit(lambda tokens: transformer(tokens, None, num_outputs=num_outputs))
        return run.lower(tokens).cost_analysis()["flops"]

    # A layer of width 8, 2 heads of width 4 and a hidden width of 12 maps 8 to 24, 8, 12 and 12 to 8 for each
    # of 8 tokens; keys and values remain for all of them, the rest for 2.
    assert flops(None) > 2 * 8 * 8 * (24 + 8 + 12 + 12)
    assert flops(1) < 0.55 * flops(None)


def test_dropout_follows_its_key_and_differs_between_layers_and_places():
    run, without = jax.jit(_transformer(dropout=0.5).__call__), jax.jit(_transformer().__call__)
    tokens = np.broadcast_to(np.random.default_rng(9).normal(size=8).astype(np.float32), (1, 4, 8))
    one, again, other = (run(tokens, jax.random.key(n)) for n in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (np.asarray(one) != np.asarray(other)).mean() > 0.9
    np.testing.assert_array_equal(run(tokens, None), without(tokens, jax.random.key(0)))
    # Equal rows come out different: no draw is shared along the sequence.
    assert len(np.unique(np.asarray(one)[0], axis=0)) == 4


def test_layers_are_stored_in_their_order_by_name():
    params = nnx.to_pure_dict(nnx.state(_transformer(depth=11), nnx.Param))
    assert sorted(params["layers"]) == [f"layer_{index:02d}" for index in range(11)]


@pytest.mark.parametrize(("causal", "asking"), [(False, None), (True, None), (False, 1)])
def test_the_weights_that_are_shown_are_those_that_mix(causal, asking):
    """Softmax weights times values, through the output map, are the layer's own output."""
    layer = SelfAttention(6, 2, 4, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(params=0))
    norm = normalization.LayerNorm(6, dtype=jnp.dtype("float32"))
    norm.scale[...] = jnp.arange(1.0, 7.0)

    @jax.jit
    def run(tokens):
        weights = layer.weights(tokens, norm, causal=causal, num_outputs=asking)
        values = layer.qkv(tokens, norm)[..., 16:].reshape(3, 5, 2, 4)
        mixed = jnp.einsum("bhqs,bshk->bqhk", weights, values).reshape(3, asking or 5, 8)
        return weights, layer.out(mixed), layer(tokens, norm, causal=causal, num_outputs=asking)

    weights, mixed, found = jax.device_get(run(jax.random.normal(jax.random.key(1), (3, 5, 6))))
    assert weights.shape == (3, 2, asking or 5, 5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(mixed, found, rtol=1e-4, atol=1e-5)
    if causal:
        assert (weights[..., np.triu_indices(5, 1)[0], np.triu_indices(5, 1)[1]] == 0).all()


def test_layers_and_keys_drawn_together_are_those_drawn_one_by_one():
    """Configs and seeds keep their numbers although one program draws all layers."""
    options = {"num_heads": 2, "head_width": 3, "mlp_width": 8, "dropout": 0.0, "dtype": jnp.float32}
    rngs = nnx.Rngs(params=5)
    alone = [TransformerLayer(6, **options, rngs=rngs) for _ in range(3)]
    build = functools.partial(Transformer, 6, depth=3, causal=False, remat=False, scan=False, **options)
    outline = keys.outline(build)
    together = build(rngs=keys.stream_of(5, outline.num_keys))
    assert nnx.split(together)[0] == outline.graphdef
    for index, layer in enumerate(alone):
        found = nnx.to_pure_dict(nnx.state(together.layers[layer_name(index)]))
        jax.tree.map(np.testing.assert_array_equal, found, nnx.to_pure_dict(nnx.state(layer)))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [5, 8, 197])
def test_padded_attention_is_the_written_out_one(length, causal):
    """What cuDNN is asked, computed by XLA: the padding neither asks nor is seen, in gradients either."""
    query, key, value, wanted = jax.random.normal(jax.random.key(0), (4, 2, 3, length, 8))

    def loss(attend_by, parts):
        return (attend_by(*parts, causal=causal) * wanted).sum()

    fused = functools.partial(fused_attention.attend_fused, implementation="xla")
    (expected, gradients), (found, others) = (
        jax.jit(jax.value_and_grad(functools.partial(loss, by)))((query, key, value)) for by in (attend, fused)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for one, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_cudnn_is_asked_only_for_what_it_takes():
    takes = {"length": 197, "num_queries": 197, "head_width": 64, "dtype": "bfloat16", "backend": "gpu"}
    assert fused_attention.refusal(**takes) == "" and fused_attention.padded(197) == 200
    for change, reason in {
        ("backend", "cpu"): "the device is a cpu",
        ("dtype", "float32"): "model.compute_dtype is float32",
        ("head_width", 20): "heads are 20 wide",
        ("head_width", 256): "heads are 256 wide",
        ("num_queries", 1): "few tokens ask",
    }.items():
        assert fused_attention.refusal(**takes | dict([change])) == reason
