"""`evaluate` on a tiny trained run: numbers for every level, kept and not asked again, on views and other data."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest

from hvt_jax.data.dataset import DataError
from hvt_jax.evaluation import attentive, grid_probes, protocols
from hvt_jax.evaluation.finetune import FinetuneSettings
from hvt_jax.evaluation.grid_probes import Schedule
from hvt_jax.run import trained
from hvt_jax.settings import SettingsError
from hvt_jax.tools import evaluating, evaluation_data, evaluation_report, training
from tests import runs, small

FINETUNE = FinetuneSettings(epochs=1)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluating")
    return trained.open_run(runs.finished_run(tmp_path_factory, folder), "last")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Make probes train for a few steps."""
    for module, name in ((protocols, "LINEAR"), (protocols, "MLP")):
        monkeypatch.setattr(module, f"{name}_SCHEDULE", Schedule(8, 1, 2, 2))
    monkeypatch.setattr(attentive, "SCHEDULE", Schedule(8, 1, 2, 2))


def _evaluation(opened, out, **others):
    clips, crops = others.pop("views", (1, 1))
    said = []
    data = evaluation_data.load_data(opened, others.pop("other", None), clips=clips, crops=crops)
    fields = {"levels": opened.levels, "out": pathlib.Path(out), "finetune": FINETUNE, "again": False}
    bar = lambda title, total: lambda done: said.append((title, done))  # noqa: E731
    return evaluating.Evaluation(opened, data, say=said.append, bar=bar, **(fields | others)), said


def test_numbers_pictures_and_report_that_are_not_made_twice(opened, tmp_path, monkeypatch):
    evaluation, said = _evaluation(opened, tmp_path)
    setup = evaluating.evaluate(evaluation, ("knn", "retrieval", "linear"))
    num_test = len(evaluation.data.test.dataset)
    for name in ("knn", "retrieval", "linear"):
        for level in opened.levels:
            found = setup["protocols"][name][level]["label_sets"]
            assert list(found) == ["motion", "digit"]
            for numbers in found.values():
                assert numbers["num_test"] == numbers["untrained"]["num_test"] == num_test
                low, high = numbers["interval"]
                assert 0 <= low <= numbers["top1"] <= high <= 100 and numbers["top1"] <= numbers["top5"]
            assert "within_pairs" in found["motion"] and "within_pairs" not in found["digit"]
    recall = setup["protocols"]["retrieval"]["clip"]["label_sets"]["motion"]
    assert list(recall["recall"]) == ["1", "5", "10", "20"] and recall["recall"]["1"] == pytest.approx(recall["top1"])
    assert "sklearn" in setup["protocols"]["linear"]["clip"]["label_sets"]["digit"]
    (folder,) = (tmp_path / "confusion").iterdir()
    table = json.loads((folder / "knn_motion.json").read_text())
    assert np.sum(table["clip"]["counts"]) == num_test and len(table["classes"]) == 8
    assert (folder / "linear_digit.png").exists()
    report = (tmp_path / "report.md").read_text()
    assert "| knn | clip | motion |" in report and "R@20" in report and "](confusion/" in report
    assert len(list(evaluation_report.rows(setup))) == 3 * 2 * 2

    # A second process asks nothing again, and takes what it lacks from the cache; what is damaged is made anew.
    monkeypatch.setattr(evaluating, "_ask", None)
    again, said = _evaluation(opened, tmp_path)
    assert evaluating.evaluate(again, ("knn", "linear")) == setup
    assert said == [f"{name}: there already for frame, clip; --again repeats it" for name in ("knn", "linear")]
    cached = sorted((tmp_path / "features").iterdir())
    assert len(cached) == 4  # two splits, trained and untrained
    before = again.features[True][0].arrays["clip"].copy()
    assert all("there already, in" in line for line in said[2:])
    for path in cached:
        (path / "clip.npy").write_bytes((path / "clip.npy").read_bytes()[:-1])
    fresh, said = _evaluation(opened, tmp_path)
    np.testing.assert_array_equal(fresh.features[True][0].arrays["clip"], before)
    assert sum("damaged, made anew" in line for line in said if isinstance(line, str)) == 4
    _damage_results(tmp_path, fresh)


def _damage_results(folder, evaluation):
    """Damage parts of results.json: the rest of it stays, its report can be written, what is damaged is asked again."""

    def open_results():
        return evaluation_report.Results(folder, evaluation.setup, evaluation.data.label_names)

    path = folder / "results.json"
    (key,) = (content := json.loads(path.read_text()))["setups"]
    entries = content["setups"][key]["protocols"]
    hashes, entry = {name: levels["clip"]["hash"] for name, levels in entries.items()}, entries["linear"]["clip"]
    del entries["knn"]["clip"]["label_sets"]["digit"]["interval"]
    entries["retrieval"] = 3
    content["setups"]["other"] = {"protocols": {}}
    path.write_text(json.dumps(content))
    results = open_results()
    found = {name: results.hash_of(name, "clip") for name in hashes}
    assert results.damaged and found == {"knn": None, "retrieval": None, "linear": hashes["linear"]}
    results.write_report()
    results.keep("linear", "clip", entry, {})
    assert json.loads((folder / "results.damaged.json").read_text()) == content
    assert not open_results().damaged
    (folder / "confusion" / key / "linear_digit.json").write_text('{"clip": {"counts": "x"}}')
    assert open_results().hash_of("linear", "clip") is None
    open_results().write_report()


def test_tokens_and_views(opened, tmp_path):
    evaluation, _ = _evaluation(opened, tmp_path, views=(2, 1), levels=("frame",))
    (train, test), _ = evaluation.tokens(("frame",)).values()
    features = evaluation.features[True]
    assert train.arrays["frame"].shape[1:] == (1, 4, 8) and test.arrays["frame"].shape[1:] == (2, 4, 8)
    for found, pooled in zip((train, test), features, strict=True):
        np.testing.assert_allclose(found.arrays["frame"].mean(2), pooled.arrays["frame"], atol=1e-5)
    # The one view of training videos is what the run itself was evaluated by.
    numbers = evaluating.evaluate(evaluation, ("attentive",))["protocols"]["attentive"]["frame"]["label_sets"]
    assert numbers["motion"]["num_test"] == len(test.rows)
    assert (numbers["motion"]["details"]["learning_rate"], 0.01) in [
        (setting.rate, 0.01) for setting in attentive.SETTINGS
    ]


def test_finetune_of_one_level(opened, tmp_path):
    evaluation, said = _evaluation(opened, tmp_path, levels=("frame",))
    numbers = evaluating.evaluate(evaluation, ("finetune",))["protocols"]["finetune"]["frame"]["label_sets"]
    assert numbers["digit"]["details"]["epoch"] == 1
    assert numbers["motion"]["num_test"] == len(evaluation.data.test.dataset)
    learn, _ = grid_probes.hold_out(len(evaluation.data.train.dataset))
    done = [done for title, done in said if title == "finetune frame, motion"]
    assert sum(done) == -(-len(learn) // opened.settings.train.batch_size)
    other = dataclasses.replace(evaluation, finetune=dataclasses.replace(FINETUNE, rate=0.5))
    assert evaluating._hash(evaluation, "finetune", "frame") != evaluating._hash(other, "finetune", "frame")
    assert evaluating._hash(evaluation, "knn", "frame") == evaluating._hash(other, "knn", "frame")


def test_other_data_are_seen_as_the_model_was_trained_to_see(opened, tmp_path):
    root = runs.make_data(tmp_path / "other", 30)
    settings = opened.settings
    other = dataclasses.replace(
        settings,
        data=dataclasses.replace(settings.data, name="folder", root=str(root / "videos"), height=64, num_frames=8),
        evaluation=dataclasses.replace(settings.evaluation, reversed_pairs=()),
    )
    data = evaluation_data.load_data(opened, other, clips=1, crops=1)
    assert (data.settings.name, data.settings.height, data.settings.num_frames) == ("folder", 32, 4)
    assert len(data.train.dataset) + len(data.test.dataset) == 30 and data.partners == {}


def test_too_many_bad_videos_end_it(opened, tmp_path):
    data = evaluation_data.load_data(opened, None, clips=1, crops=1)
    found = evaluation_data.Features({}, np.arange(3), {3: "torn"})
    said = []
    with pytest.raises(DataError, match="1 of 16 train videos cannot be read, 6.2%, more than data.max_bad_fraction"):
        evaluation_data._check_bad(found, data.train, data.settings, said.append)
    assert "counts in nothing" in said[0] and said[0].endswith("torn")


def test_what_the_config_asks_at_the_end_of_training(opened, tmp_path, capsys):
    source, run = pathlib.Path(opened.source), tmp_path / "run"
    run.mkdir()
    (run / "checkpoints").symlink_to(source / "checkpoints")
    config = json.loads((source / "config.json").read_text())
    config["evaluation"]["protocols"] = ["retrieval"]
    (run / "config.json").write_text(json.dumps(config))
    training._evaluate(str(run))
    (setup,) = json.loads((run / "evaluation" / "results.json").read_text())["setups"].values()
    assert list(setup["protocols"]) == ["retrieval"] and list(setup["protocols"]["retrieval"]) == ["frame", "clip"]
    assert "retrieval" in capsys.readouterr().out


def test_several_crops_of_squeezed_frames_are_refused():
    model = types.SimpleNamespace(settings=small.small_settings(**{"data.resize": "squeeze"}))
    with pytest.raises(SettingsError, match="3 crops of squeezed frames .* would all be the same; use 1"):
        evaluation_data.load_data(model, None, clips=2, crops=3)
