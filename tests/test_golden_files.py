"""Which golden files the tests find: every one of both folders, by content."""

import json
import shutil

import numpy as np
import pytest

from tests import golden_files
from tests.golden_files import GOLDENS

STEP = GOLDENS / "ht_08_bs_image_mse_bn_stem.npz"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(golden_files.VARIABLE, str(tmp_path))
    return tmp_path


def test_every_file_is_run_by_a_test():
    assert golden_files.unknown() == []


def test_our_own_folder_holds_every_kind(monkeypatch):
    monkeypatch.delenv(golden_files.VARIABLE, raising=False)
    for kind in (*golden_files.KINDS, "misc"):
        assert golden_files.of_kind(kind), kind
    assert len(golden_files.of_kind("step")) == 7


def test_a_file_of_the_same_name_is_run_as_well(folder):
    shutil.copy(STEP, folder)
    found = [path for path in golden_files.of_kind("step") if path.name == STEP.name]
    assert found == [STEP, folder / STEP.name]
    assert [golden_files.label(path) for path in found] == [f"goldens/{STEP.stem}", f"HVT_GOLDENS/{STEP.stem}"]


def test_files_are_taken_by_what_they_hold(folder):
    shutil.copy(STEP, folder / "case_a.npz")
    shutil.copy(GOLDENS / "knn.npz", folder / "ht_neighbours.npz")
    (folder / "more.json").write_text(json.dumps({"validation_epochs": {"linear:1:2": [1, 2]}}))
    (folder / "notes.json").write_text(json.dumps(["of another kind"]))
    assert folder / "case_a.npz" in golden_files.of_kind("step")
    assert folder / "ht_neighbours.npz" in golden_files.of_kind("knn")
    assert folder / "more.json" in golden_files.of_kind("misc")
    _, values = golden_files.each_misc_item("validation_epochs").args
    assert (values[-1].values, values[-1].id) == (("linear:1:2", [1, 2]), "HVT_GOLDENS/more-linear:1:2")
    assert golden_files.unknown() == []


def test_a_file_that_no_test_runs_on_is_named(folder):
    shutil.copy(STEP, folder)
    np.savez(folder / "stranger.npz", x=np.zeros(2))
    (folder / "damaged.npz").write_bytes(STEP.read_bytes()[:1000])
    assert golden_files.unknown() == [folder / "damaged.npz", folder / "stranger.npz"]


def test_a_folder_that_is_missing_or_empty_is_named(folder, monkeypatch):
    np.savez(folder / "stranger.npz", x=np.zeros(2))
    with pytest.raises(ValueError, match=f"HVT_GOLDENS={folder} holds no golden file"):
        golden_files.of_kind("step")
    monkeypatch.setenv(golden_files.VARIABLE, str(folder / "nowhere"))
    with pytest.raises(ValueError, match=f"HVT_GOLDENS={folder}/nowhere is no folder"):
        golden_files.of_kind("knn")
