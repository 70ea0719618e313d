"""Pictures of a trained run: what is written, what it shows, and that names of videos and classes are only names."""

import dataclasses
import html
import io
import json
import re
import shlex
import subprocess
import sys
import types
import warnings

import av
import jax
import numpy as np
import pytest

from hvt_jax.evaluation import embedding
from hvt_jax.run import report_pictures, trained
from hvt_jax.run.seals import CheckpointError
from hvt_jax.tools import film, interactive, overlays, pictures, visualizing
from tests import notebooks, runs

HOSTILE = ("</script><script>alert(1)</script>", "_$x^{", "two\nlines", "\udcff\x00", "<img src=x onerror=y>", "")
EVERYTHING = [
    *("attention_00.mp4", "attention_00.png", "map.html", "map_pca.png", "map_tsne.png"),
    *("neighbours_clip.png", "surprise_00.mp4", "surprise_00.png"),
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("visualize")
    run = runs.finished_run(tmp_path_factory, folder)
    request = visualizing.Request(("clip",), visualizing.WHAT, run / "pictures", 1, 4)
    lines = []
    model = trained.open_run(run, "last")
    files = visualizing.visualize(model, request, visualizing.Screen(lines.append, lambda _: None))
    report_pictures.refresh(run)
    return run, model, files, lines


def test_what_is_written(drawn):
    folder, model, files, lines = drawn
    names = [path.name for path in files if path.name != "map_umap.png"]
    assert sorted(names) == EVERYTHING
    for path in files:
        if path.suffix == ".png":
            assert path.read_bytes().startswith(b"\x89PNG")
        if path.suffix == ".mp4":
            with av.open(str(path)) as film_file:
                assert sum(1 for _ in film_file.decode(video=0)) == model.settings.data.num_frames
    facts = json.loads((folder / "pictures" / "provenance.json").read_text())
    assert list(facts) == list(visualizing.WHAT)
    found = facts["surprise"]
    assert (found["step"], found["parameters"], found["test_videos"]) == (8, model.digest, 4)
    told = [line.split(":")[1].strip() for line in lines if line.startswith("surprise: ")]
    assert told == ["frame->frame/side", "clip->frame/down"]
    assert "test split: 4 of 8 videos, evenly spread; --most takes more" in lines
    assert ("umap" in embedding.available_methods()) != any("pip install umap-learn" in line for line in lines)


def test_the_page_holds_all_videos(drawn):
    folder = drawn[0]
    page = (folder / "pictures" / "map.html").read_text()
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page).group(1))
    assert list(data["labels"]) == ["motion", "digit"] and len(data["names"]) == 4
    for method in ("pca", "tsne"):
        points = np.array(data["maps"][method]["clip"])
        assert points.shape == (4, 2) and points.min() >= 0 and points.max() <= 1
    assert all(strip.startswith("data:image/jpeg;base64,/9j/") for strip in data["strips"]) and len(data["strips"]) == 4
    motions = [data["labels"]["motion"]["names"][number] for number in data["labels"]["motion"]["of"]]
    assert all(f"/{motion}/" in name for motion, name in zip(motions, data["names"], strict=True))
    assert not re.search(r"""(?:src|href)\s*=\s*["']?http""", page)


def test_the_report_shows_them_and_can_be_mailed(drawn):
    folder = drawn[0]
    report, page = (folder / "report.md").read_text(), (folder / "report.html").read_text()
    assert report.count(report_pictures.HEADING) == 1 and report.count("At step 8.") == 4
    shown = re.findall(r"!\[\w+\]\((pictures/[^)]+)\)", report)
    assert len(shown) == len([name for name in EVERYTHING if name.endswith(".png")]) + (
        "umap" in embedding.available_methods()
    )
    assert page.count("<img ") == len(shown) and page.count('src="data:image/png;base64,') == len(shown)
    assert page.count('<video controls loop muted src="data:video/mp4;base64,') == 2
    assert "<table>" in page and "map.html" in page and "<a " not in page
    report_pictures.refresh(folder)
    assert (folder / "report.md").read_text() == report


def test_a_second_call_replaces_what_it_draws_only(drawn, tmp_path):
    _, model, *_ = drawn
    (tmp_path / "attention_07.png").write_bytes(b"old")
    (tmp_path / "neighbours_clip.png").write_bytes(b"kept")
    (tmp_path / "provenance.json").write_text('{"neighbours": {"step": 3}, "map": 1}')
    request = visualizing.Request(("frame",), ("attention",), tmp_path, 2, 4)
    files = visualizing.visualize(model, request, visualizing.Screen(lambda _: None, lambda _: None))
    assert [path.name for path in files] == [f"attention_0{n}.{end}" for n in (0, 1) for end in ("png", "mp4")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(path.name for path in files), "neighbours_clip.png", "provenance.json"]
    )
    facts = json.loads((tmp_path / "provenance.json").read_text())
    assert {kind: facts[kind]["step"] for kind in facts} == {"neighbours": 3, "attention": 8}


def test_features_that_are_not_finite_are_refused(drawn, tmp_path):
    diverged = dataclasses.replace(drawn[1], params=jax.tree.map(lambda leaf: leaf * np.nan, drawn[1].params))
    request = visualizing.Request(("clip",), ("map",), tmp_path, 1, 4)
    with pytest.raises(CheckpointError, match="step 8: features of frame are not finite; give another --checkpoint"):
        visualizing.visualize(diverged, request, visualizing.Screen(lambda _: None, lambda _: None))


def test_the_cells_of_the_quick_start_run_on_what_its_commands_make(drawn, monkeypatch, capsys):
    """In this process: its commands have been done by the fixture, and `test_notebooks` reads their flags."""
    folder, shown, said = drawn[0], [], []
    ipython = types.ModuleType("IPython.display")
    ipython.Image, ipython.display = (lambda name: open(name, "rb").read()), shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", ipython)
    monkeypatch.chdir(runs.ROOT / "colabs")
    notebook = notebooks.read(runs.ROOT / "colabs" / "quickstart.ipynb")
    notebooks.set_parameters(notebook, {"RUN": str(folder)})
    notebooks.run_cells(notebook, lambda line: said.append(shlex.split(line)[2:]))
    assert [words[:2] for words in said] == [
        ["hvt_jax", "make_digits"],
        ["hvt_jax.main", "--config=configs/digits.py"],
        ["hvt_jax", "visualize"],
    ]
    assert all(f"{folder}" in " ".join(words) for words in said[1:])
    assert len(shown) == len(list((folder / "pictures").glob("*.png"))) and shown[0].startswith(b"\x89PNG")
    assert re.search(
        r"^knn     clip      motion   +[\d.]+ %  \(untrained [\d.]+, chance 12.5\)$", capsys.readouterr().out, re.M
    )


def test_the_command_refuses_in_a_line(tmp_path):
    run = [sys.executable, "-m", "hvt_jax", "visualize", f"--run={tmp_path}", "--what=maps"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, cwd=runs.ROOT)
    known = "map, attention, neighbours, surprise and all"
    assert (done.returncode, done.stderr) == (2, f"error: --what=maps is unknown; there are {known}\n")


def test_names_stay_names_in_the_page():
    labels = {HOSTILE[0]: pictures.Labels(np.arange(6), HOSTILE)}
    points = {"pca": {"frame": np.arange(12.0).reshape(6, 2)}}
    page = interactive.make_page(HOSTILE[4], points, labels, HOSTILE, [b"x"] * 6)
    plain = interactive.make_page("x", points, {"x": pictures.Labels(np.zeros(6, int), ("x",))}, ["x"] * 6, [b"x"] * 6)
    for tag in ("<script", "</script", "<img", "<"):
        assert page.count(tag) == plain.count(tag)
    assert html.escape(HOSTILE[4]) in page
    page.encode("utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page).group(1))
    assert data["names"] == list(HOSTILE) and data["labels"][HOSTILE[0]]["names"] == list(HOSTILE)


def test_names_stay_names_in_pictures():
    strip, many = np.zeros((4, 16, 3), np.uint8), tuple(f"class {number}" for number in range(60))
    labels = {"_$x": pictures.Labels(np.arange(6), HOSTILE), "many": pictures.Labels(np.arange(6), many)}
    found = [pictures.Found(strip, (name, "x")) for name in HOSTILE]
    video = np.zeros((10, 8, 12, 3), np.uint8)
    curve = overlays.Curve(np.array([1.0, np.nan]), 1.0, 2.0, "#222222")
    maps = {"frame": overlays.Overlay(np.full((10, 2, 3), np.nan), (0.0, 1.0), "note")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        film.png(pictures.draw_maps("$", {"frame": np.zeros((6, 2)), "clip": np.ones((6, 2))}, labels))
        film.png(pictures.draw_neighbours("$", [(found[0], [(found[0], 1.0), (found[1], 0.5)]), (found[1], [])]))
        for title in HOSTILE:
            figure, show = overlays.draw_film(overlays.Sheet(title, video, maps, {"clip": curve}))
            film.png(figure)
        film.png(overlays.draw_strip(overlays.Sheet("$", video, maps, {"clip": curve})))
    content = film.mp4(figure, show, 3)
    with av.open(io.BytesIO(content)) as opened:
        assert sum(1 for _ in opened.decode(video=0)) == 3
    assert len(set(pictures.class_colors(60))) == 60


def test_strips_and_spreads():
    video = np.repeat(np.arange(0, 240, 30, dtype=np.uint8), 8 * 8 * 3).reshape(8, 8, 8, 3)
    strip = film.film_strip(video, frames=4, height=16)
    assert strip.shape == (16, 64, 3)
    np.testing.assert_allclose(strip[8, 8::16, 0], video[film.spread(8, 4), 0, 0, 0], atol=2)
    assert film.spread(8, 4).tolist() == [1, 3, 5, 7] and film.spread(3, 5).tolist() == [0, 1, 2]
    assert film.plain("a\nb" + "c" * 30, 10) == "a?bcccc..."
