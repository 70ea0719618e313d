"""Runs of the methods that train end to end: what they leave behind, and that one resumes bit for bit."""

import pathlib
import shutil

import pytest

from hvt_jax.data.dataset import DataError, Dataset, Video
from hvt_jax.engine.classes import fit_to_labels
from hvt_jax.settings import SettingsError
from tests import kill_and_resume, runs, small

SUPERVISED = {"method": "supervised", "model.hierarchy": "frame-clip"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("supervised")
    runs.make_data(folder / "digits")
    run = _train(folder, folder / "run")
    assert run.code == 0, run.stderr
    (folder / "said.txt").write_text(run.stdout)
    return folder


def _train(world, workdir) -> runs.Ended:
    # Of the digit, which is not the first label set of the data.
    fields = {"data.root": world / "digits", **runs.FIELDS, **SUPERVISED, "data.label": "digit"}
    return runs.train_here(workdir, fields)


def test_what_it_leaves_behind(world):
    records, results = runs.numbers(world / "run"), runs.results(world / "run")
    trained = [record for record in records if "train/top1" in record]
    assert [record["step"] for record in trained] == list(range(1, 9))
    assert {"gradient_norm/head", "skipped_updates/head", "learning_rate/head", "monitor/clip/rank"} <= trained[
        0
    ].keys()
    assert not [name for name in trained[0] if "predictors" in name or "->" in name]
    heads = [record for record in records if "test/top1" in record]
    assert [record["step"] for record in heads] == [0, 4, 8] and heads[0]["test/chance"] == 10.0
    assert results["head"]["evaluated_step"] == 8 and results["head"]["top1"] == heads[-1]["test/top1"]
    assert {"motion", "digit"} <= results["knn"]["clip"].keys()
    said, report = (world / "said.txt").read_text(), (world / "run" / "report.md").read_text()
    assert "method    supervised: all levels end to end by the labels 'digit', cross-entropy of a linear head" in said
    assert ", 110 of them in the head" in said and "edges" not in said
    assert f"head top-1 {heads[-1]['test/top1']:.1f} % of the test videos" in said
    assert "The model's own head, trained end to end on labels, is right for" in report


def test_it_resumes_bit_for_bit(world, tmp_path):
    copy = pathlib.Path(shutil.copytree(world / "run", tmp_path / "run"))
    shutil.rmtree(copy / "checkpoints" / "8")
    (copy / "checkpoints" / "manifest-8.json").unlink()
    run = _train(world, copy)
    assert run.code == 0 and run.resumed_at == 6, run.stderr
    assert kill_and_resume.differences(world / "run", copy) == []
    assert runs.results(copy)["head"] == runs.results(world / "run")["head"]


def test_views_and_a_teacher_train_from_a_config_to_a_report_and_resume_bit_for_bit(world, tmp_path):
    """SVT: two groups of views, and a teacher and a centre in the checkpoint."""
    fields = {"data.root": world / "digits", **runs.FIELDS, "method": "svt"}
    fields |= {"train.num_epochs": 1.0, "checkpoint.interval_steps": 2}
    run = runs.train_here(world / "svt", fields)
    assert run.code == 0, run.stderr
    assert "method    svt: all levels end to end through the clip tokens: local and global views" in run.stdout
    trained = [record for record in runs.numbers(world / "svt") if "train/total" in record]
    assert [record["step"] for record in trained] == list(range(1, 5))
    assert {"train/teacher_entropy", "gradient_norm/head", "monitor/clip/rank"} <= trained[0].keys()
    results = runs.results(world / "svt")
    assert results["outcome"] == "done" and "head" not in results and results["knn"]["clip"]
    assert "own head" not in (world / "svt" / "report.md").read_text()
    copy = pathlib.Path(shutil.copytree(world / "svt", tmp_path / "svt"))
    shutil.rmtree(copy / "checkpoints" / "4")
    (copy / "checkpoints" / "manifest-4.json").unlink()
    again = runs.train_here(copy, fields)
    assert again.code == 0 and again.resumed_at == 2, again.stderr
    assert runs.results(copy)["state_digest"] == results["state_digest"]


def _dataset(*labels: tuple[int, ...], **label_names: tuple[str, ...]) -> Dataset:
    videos = tuple(Video(f"{number}.mp4", row) for number, row in enumerate(labels))
    return Dataset(pathlib.Path("videos"), videos, label_names)


def test_labels_that_tell_nothing_apart_are_refused_in_one_line():
    definition = small.define(**SUPERVISED)
    one = _dataset((0,), (0,), all=("all",))
    with pytest.raises(SettingsError, match="needs videos of 2 classes or more, but the 2 training videos of videos"):
        fit_to_labels(definition, one)
    # The other classes are those of test videos.
    unused = _dataset((1, 0), (1, 1), action=("walk", "run"), place=("in", "out"))
    with pytest.raises(SettingsError, match="1 class of 'action'; set config.data.label = 'place'") as caught:
        fit_to_labels(definition, unused)
    assert "\n" not in str(caught.value)
    assert fit_to_labels(definition, unused.with_primary("place")).num_classes == 2
    local = small.define(**{"model.hierarchy": "frame-clip"})
    assert fit_to_labels(local, one) is local
    with pytest.raises(DataError, match="data.label = 'x'"):
        one.with_primary("x")
