"""The config.json of a run of an earlier version: fields that came later, and those with another name then."""

import json

import pytest

from configs import default
from hvt_jax.run import trained
from hvt_jax.run.seals import CheckpointError
from hvt_jax.settings import older, read_settings


def test_it_is_read_as_what_that_run_did(tmp_path):
    config = json.loads(default.get_config().to_json())
    assert older.complete(json.loads(json.dumps(config))) == config
    del config["model"]["initial_weights"], config["evaluation"]["protocols"]
    del config["model"]["encoder"], config["model"]["stem"]["trainable"], config["data"]["resize"]
    for level in ("frame", "clip", "sequence"):
        del config["model"][level]["qkv_bias"], config["model"][level]["norm_epsilon"]
    config["objective"]["patch_questions"] = config["objective"].pop("patch_targets")
    del config["objective"]["patch_weight"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    then = default.get_config()
    then.objective.patch_weight = 1.0  # all predictions counted alike
    assert trained.read_config(tmp_path) == read_settings(then)


@pytest.mark.parametrize("content", ["[1]", "3", "{"])
def test_what_is_no_config_is_still_damaged(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match="damaged"):
        trained.read_config(tmp_path)
