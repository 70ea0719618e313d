"""What XLA is asked for beside its defaults changes no number."""

import jax
import numpy as np

from hvt_jax.engine import compilation, steps
from tests import small


def test_deterministic_kernels_are_asked_of_a_gpu_by_a_name_that_xla_knows(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    options = compilation.compiler_options.__wrapped__(True)
    assert options and not compilation.compiler_options.__wrapped__(False)
    monkeypatch.undo()
    assert all(compilation._is_known(name, value) for name, value in options.items())
    assert not compilation._is_known("xla_gpu_no_such_option", True)


def test_every_metric_of_a_step_is_that_of_plain_xla():
    """A library that takes over products once gave garbage for those with a constant (findings/)."""
    fields = {"objective.distance": "contrastive", "objective.patch_targets": "change", "model.patch.width": 64}
    definition = small.define(**{"model.hierarchy": "patch-frame", "data.num_frames": 16}, **fields)
    step = steps.build_train_step(definition, small.optimizer(definition), num_steps=1)  # the last step is logged
    arguments = (small.new_state(definition), small.batch_of(definition), jax.random.key(0))
    plain = jax.jit(step)(*arguments)[1]
    asked = jax.jit(step, compiler_options=compilation.compiler_options())(*arguments)[1]
    assert sum(name.endswith("mean_ratio") for name in asked) == len(definition.hierarchy.edges)
    for name in plain:
        np.testing.assert_allclose(asked[name], plain[name], rtol=1e-3, atol=1e-5, err_msg=name)
