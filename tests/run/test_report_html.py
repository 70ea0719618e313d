"""The report as one file: its text and tables, its pictures inside, and nothing that a name could smuggle in."""

import base64

from hvt_jax.run import report, report_html, report_pictures

PICTURE = b"\x89PNG\r\n\x1a\nrest"


def _render(tmp_path, text):
    (tmp_path / "run" / "figures").mkdir(parents=True)
    (tmp_path / "run" / "figures" / "losses.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "run" / "report.md").write_bytes(text.encode(errors="surrogateescape"))
    page = report_html.write_html(tmp_path / "run").read_text()
    return page[page.index("<body>") :]


def test_text_tables_and_pictures(tmp_path):
    page = _render(
        tmp_path, "# Report\n\n| level | top |\n|---|---:|\n| frame | **1** |\n\n![losses](figures/losses.png)\n"
    )
    assert "<h1>Report</h1>" in page and "<td>frame</td>" in page and "<strong>1</strong>" in page
    assert f'<img alt="losses" src="data:image/png;base64,{base64.b64encode(PICTURE).decode()}">' in page


def test_nothing_is_smuggled_in(tmp_path):
    text = (
        "<script>alert(1)</script> `<b>` <img src=x onerror=y>\n\n"
        "![a](http://evil/x.png) ![b](../secret.png) ![c](link.png) ![d](/etc/x.png) ![e](figures/none.png)\n\n"
        '![f" onload="y](figures/losses.png) [words](javascript:alert(1)) [there](https://evil) <https://evil.org>\n\n'
        "[film](../secret.mp4) ![g](%2e%2e/secret.png) ![h](file:///secret.png) \udcff\n"
    )
    page = _render(tmp_path, text)
    assert "<script" not in page and "<b>" not in page and "<a" not in page and "evil/x.png" not in page
    assert page.count("<img") == 1 and 'alt="f&quot; onload=&quot;y"' in page
    assert base64.b64encode(b"secret").decode() not in page
    for words in ("a b c d e", "there", "film", "&lt;script&gt;"):
        assert words in page


def test_a_run_without_a_report_gets_one_of_its_pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    report_pictures.refresh(tmp_path)
    assert (tmp_path / "report.md").read_text() == "# Report\n"
    (tmp_path / "pictures" / "map_pca.png").write_bytes(PICTURE)
    (tmp_path / "pictures" / "provenance.json").write_text("[]")
    report_pictures.refresh(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "![map](pictures/map_pca.png)" in text and "At step" not in text
    assert "<img" in (tmp_path / "report.html").read_text()


def test_the_report_of_a_run_keeps_them(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "surprise_00.png").write_bytes(PICTURE)
    (tmp_path / "pictures" / "surprise_00.mp4").write_bytes(b"film")
    for level in ("sequence", "clip", "patch"):
        (tmp_path / "pictures" / f"neighbours_{level}.png").write_bytes(PICTURE)
    text = report.write_report(tmp_path, [], {"outcome": "running", "steps": 3}, []).read_text()
    assert text.endswith("In motion: [surprise_00.mp4](pictures/surprise_00.mp4)\n")
    assert text.index("## Pictures") < text.index(report_pictures.HEADING) < text.index("![surprise]")
    assert text.index("neighbours_patch") < text.index("neighbours_clip") < text.index("neighbours_sequence")
    before = text
    report_pictures.refresh(tmp_path)
    assert (tmp_path / "report.md").read_text() == before
    assert "data:video/mp4;base64,ZmlsbQ==" in (tmp_path / "report.html").read_text()
