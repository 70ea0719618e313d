"""S3D as an encoder of its own, from its config to an export: the same code paths as every hierarchy."""

import jax
import numpy as np
import pytest

from hvt_jax.data import video_windows
from hvt_jax.interop import export, model_files
from hvt_jax.run import trained
from hvt_jax.tools import extraction
from tests import runs, small
from tests.model.test_s3d import ENCODER

FIELDS = {**runs.FIELDS, **ENCODER, "data.width": 32, "data.num_frames": 8, "model.num_clips": 4, "data.label": "digit"}
FIELDS |= {"data.resize": "squeeze", "train.num_epochs": 1.0, "evaluation.probe_steps": 0}


@pytest.mark.long
def test_it_trains_resumes_and_is_used(tmp_path, monkeypatch):
    small.shorten_s3d(monkeypatch)
    data = runs.make_data(tmp_path / "digits")
    fields = FIELDS | {"data.root": data}
    run = runs.train_here(tmp_path / "run", fields)
    assert run.code == 0, run.stderr
    assert "encoder   s3d" in run.stdout and "clip: digit kNN" in run.stdout
    results = runs.results(tmp_path / "run")
    assert results["steps"] == 4 and results["head"]["evaluated_step"] == 4
    again = runs.train_here(tmp_path / "run", fields)
    assert again.code == 0 and runs.results(tmp_path / "run")["parameter_digest"] == results["parameter_digest"]

    model = trained.open_run(tmp_path / "run", "last")
    video = np.random.default_rng(0).integers(0, 256, (4, 8, 32, 32, 3), np.uint8)
    features = jax.device_get(model.compile()({"video": video}))
    assert features["clip"].shape == (4, 1024) and model.levels == ("clip",)
    done = export.export(str(tmp_path / "run"), str(tmp_path / "exported"), "last")
    assert max(done.differences.values()) < 1e-4
    reopened = model_files.open_model(tmp_path / "exported")
    np.testing.assert_array_equal(reopened.compile()({"video": video})["clip"], features["clip"])
    assert "whatever its shape" in (tmp_path / "exported" / "README.md").read_text()
    found = extraction.extract(
        model,
        video_windows.find_videos(str(data), model.settings.data),
        str(tmp_path / "features.npz"),
        levels=("clip",),
        step=video_windows.Step(centre=True),
        batch_size=4,
        on_progress=lambda *_: None,
    )
    with np.load(tmp_path / "features.npz") as arrays:
        assert arrays["clip"].shape == (found.windows, 1024)
