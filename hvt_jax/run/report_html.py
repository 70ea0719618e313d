"""`report.html`: the report of a run as one file that can be mailed."""

import base64
import html
import os
import urllib.parse
from pathlib import Path

from hvt_jax.run.run_folder import write_file

_KINDS = {".png": "image/png", ".mp4": "video/mp4"}
_LARGEST = 64 << 20  # bytes of a picture that are taken in

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em; color: #222 }}
table {{ border-collapse: collapse; font-size: .9em; display: block; overflow-x: auto }}
th, td {{ border-bottom: 1px solid #ddd; padding: .25em .7em; text-align: left }}
img, video {{ max-width: 100% }}
video {{ width: 34em; display: inline-block; margin: .2em }}
code {{ overflow-wrap: anywhere }}
</style>
</head>
<body>
{body}</body>
</html>
"""


def write_html(folder: Path | str) -> Path:
    """Write `report.html` from `report.md`, with its pictures and films inside; return its path.

    Nothing in the report is taken as HTML, and nothing is read but pictures and films in the run folder: names of
    videos and classes, which stand in the report, may be anybody's.

    Raises:
      RunFolderError: if the file cannot be written.
    """
    folder = Path(folder)
    text = (folder / "report.md").read_bytes().decode(errors="replace")
    title = html.escape(f"Report: {folder.resolve().name}".encode("utf-8", "replace").decode())
    path = folder / "report.html"
    write_file(path, _PAGE.format(title=title, body=to_html(text, folder)).encode("utf-8", "replace"))
    return path


def to_html(text: str, folder: Path) -> str:
    """Return Markdown as HTML: pictures and linked films of `folder` inside it, other links as their words."""
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark", {"html": False}).enable("table")

    def image(_, tokens, index, options, env) -> str:
        token = tokens[index]
        words = html.escape(reader.renderer.renderInlineAsText(token.children or [], options, env))
        uri = _uri(folder, token.attrGet("src"), ".png")
        return f'<img alt="{words}" src="{uri}">' if uri else words

    def link_open(_, tokens, index, *_rest) -> str:
        uri = _uri(folder, tokens[index].attrGet("href"), ".mp4")
        return f'<video controls loop muted src="{uri}"></video><span hidden>' if uri else "<span>"

    reader.add_render_rule("image", image)
    reader.add_render_rule("link_open", link_open)
    reader.add_render_rule("link_close", lambda *_: "</span>")
    return reader.render(text)


def _uri(folder: Path, address: str | None, ending: str) -> str | None:
    """Return a file of the run folder as a data URI; None for any other address."""
    name = urllib.parse.unquote(str(address or ""))
    if not name.endswith(ending) or "\0" in name or ":" in name:
        return None
    path, root = os.path.realpath(folder / name), os.path.realpath(folder)
    if os.path.commonpath([path, root]) != root or not os.path.isfile(path) or os.path.getsize(path) > _LARGEST:
        return None
    with open(path, "rb") as file:
        return f"data:{_KINDS[ending]};base64,{base64.b64encode(file.read()).decode('ascii')}"
