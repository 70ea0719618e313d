"""A map of videos as one HTML page that needs nothing else: no network, no library."""

import html
import json
from collections.abc import Mapping, Sequence

import numpy as np

from hvt_jax.tools import film, pictures
from hvt_jax.tools.pictures import Labels

Points = Mapping[str, Mapping[str, np.ndarray]]  # {method: {level: float [videos, 2]}}


def make_page(
    title: str, points: Points, labels: Mapping[str, Labels], names: Sequence[str], strips: Sequence[bytes]
) -> str:
    """Return the page: a map with a choice of level, method and label set, and a video's frames where the mouse is.

    Names come from files and lists of anybody; they are shown as text, whatever they hold.

    Args:
      title: of the page.
      points: of all maps, of the same videos.
      labels: by label set.
      names: of the videos.
      strips: their film strips, JPEG files.
    """
    sets = {}
    for name, found in labels.items():
        colors = pictures.class_colors(len(found.names))
        sets[name] = {"names": list(found.names), "of": np.asarray(found.number).tolist(), "colors": colors}
    data = {
        "maps": {method: {level: _scaled(xy) for level, xy in by.items()} for method, by in points.items()},
        "labels": sets,
        "names": list(names),
        "strips": [film.data_uri(strip, "image/jpeg") for strip in strips],
    }
    # ASCII, and without <, > and &: nothing in it can end the element that holds it, or begin another.
    content = json.dumps(data, separators=(",", ":"))
    for letter in "<>&":
        content = content.replace(letter, f"\\u{ord(letter):04x}")
    return _PAGE.replace("@TITLE@", html.escape(title.encode("utf-8", "replace").decode())).replace("@DATA@", content)


def _scaled(points: np.ndarray) -> list[list[float]]:
    """Return points in 0 to 1, the same scale for both axes."""
    points = np.asarray(points, float)
    low, size = points.min(0), max(float(np.ptp(points, axis=0).max()), 1e-12)
    return np.round((points - low) / size + (1 - np.ptp(points, axis=0) / size) / 2, 4).tolist()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>
body { font: 14px system-ui, sans-serif; margin: 1em; color: #222; background: #fff }
h1 { font-size: 1.1em }
#choices label { margin-right: 1.2em }
#stage { display: flex; gap: 1em; margin-top: .6em; flex-wrap: wrap }
canvas { border: 1px solid #ddd; max-width: 100% }
#side { width: 24em }
#shown { min-height: 9em; border-bottom: 1px solid #ddd; margin-bottom: .6em }
#shown img { display: block; margin-bottom: .3em; max-width: 100% }
#shown div { overflow-wrap: anywhere }
#legend { columns: 2; max-height: 30em; overflow: auto }
#legend div { cursor: pointer; break-inside: avoid; overflow-wrap: anywhere }
#legend .off { opacity: .3 }
#legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 50% }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<div id="choices"></div>
<div id="stage"><canvas width="720" height="720"></canvas>
<div id="side"><div id="shown">Move over a point to see its video; click a class to see it alone.</div>
<div id="legend"></div></div></div>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.querySelector("canvas"), brush = canvas.getContext("2d");
const shown = document.getElementById("shown"), legend = document.getElementById("legend");
const state = {method: null, level: null, label: null, only: null, near: -1};
function choice(name, values, start) {
  const label = document.createElement("label"), select = document.createElement("select");
  label.append(name + " ", select);
  for (const value of values) {
    const option = document.createElement("option");
    option.value = option.textContent = value;
    select.append(option);
  }
  select.value = state[name] = start;
  select.onchange = () => { state[name] = select.value; state.only = null; list(); draw(); };
  document.getElementById("choices").append(label);
}
const methods = Object.keys(data.maps), levels = Object.keys(data.maps[methods[0]]);
choice("level", levels, levels[levels.length - 1]);
choice("method", methods, methods[methods.length - 1]);
choice("label", Object.keys(data.labels), Object.keys(data.labels)[0]);
const margin = 16, side = canvas.width - 2 * margin;
const place = point => [margin + side * point[0], margin + side * (1 - point[1])];
const points = () => data.maps[state.method][state.level];
function draw() {
  const found = data.labels[state.label];
  brush.clearRect(0, 0, canvas.width, canvas.height);
  points().forEach((point, number) => {
    const [x, y] = place(point), its = found.of[number];
    brush.globalAlpha = state.only === null || state.only === its ? 0.85 : 0.08;
    brush.fillStyle = found.colors[its];
    brush.beginPath();
    brush.arc(x, y, 4, 0, 7);
    brush.fill();
  });
  brush.globalAlpha = 1;
  if (state.near >= 0) {
    const [x, y] = place(points()[state.near]);
    brush.beginPath();
    brush.arc(x, y, 7, 0, 7);
    brush.stroke();
  }
}
function list() {
  const found = data.labels[state.label];
  legend.replaceChildren(...found.names.map((name, number) => {
    const row = document.createElement("div"), dot = document.createElement("i");
    dot.style.background = found.colors[number];
    row.append(dot, name);
    row.className = state.only === null || state.only === number ? "" : "off";
    row.onclick = () => { state.only = state.only === number ? null : number; list(); draw(); };
    return row;
  }));
}
canvas.onmousemove = event => {
  const box = canvas.getBoundingClientRect(), scale = canvas.width / box.width;
  const x = (event.clientX - box.left) * scale, y = (event.clientY - box.top) * scale;
  const of = data.labels[state.label].of;
  let near = -1, least = 400;
  points().forEach((point, number) => {
    if (state.only !== null && of[number] !== state.only) return;
    const [px, py] = place(point), far = (px - x) ** 2 + (py - y) ** 2;
    if (far < least) [near, least] = [number, far];
  });
  if (near < 0 || near === state.near) return;
  state.near = near;
  const strip = document.createElement("img"), lines = [data.names[near]];
  strip.src = data.strips[near];
  for (const [name, found] of Object.entries(data.labels)) lines.push(name + ": " + found.names[found.of[near]]);
  shown.replaceChildren(strip, ...lines.map(line => {
    const row = document.createElement("div");
    row.textContent = line;
    return row;
  }));
  draw();
};
list();
draw();
</script>
</body>
</html>
"""
