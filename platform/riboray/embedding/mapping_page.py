"""The page of a map: one file, points on a canvas, no request of any kind."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from riboray.page import html_page, printable

if TYPE_CHECKING:
    from riboray.embedding.mapping import Colouring

__all__ = ["map_page"]

_CSS = """
.map { display: grid; grid-template-columns: minmax(0, 1fr) 15rem; gap: 1rem; }
@media (max-width: 50rem) { .map { grid-template-columns: minmax(0, 1fr); } }
.stage { position: relative; height: min(75vh, 46rem); border: 1px solid var(--line);
  border-radius: 6px; background: var(--card); overflow: hidden; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; cursor: grab;
  touch-action: none; }
canvas:focus-visible, button:focus-visible, input:focus-visible { outline: 2px solid var(--blue); }
#tip { position: absolute; pointer-events: none; max-width: 20rem; padding: .2rem .5rem;
  border: 1px solid var(--line); border-radius: 4px; background: var(--card); font-size: .85rem; }
#key { display: flex; flex-direction: column; gap: 1px; max-height: 30rem; overflow-y: auto; }
#key button, #reset { display: flex; align-items: center; gap: .5rem; padding: .15rem .3rem;
  border: 0; border-radius: 4px; background: none; color: inherit; font: inherit; font-size: .85rem;
  text-align: left; cursor: pointer; }
#key button:hover, #reset:hover { background: var(--line); }
#key button[aria-pressed="false"] { opacity: .35; }
#key i { flex: none; width: .8rem; height: .8rem; border-radius: 50%; }
#find { width: 100%; padding: .3rem .5rem; border: 1px solid var(--line); border-radius: 4px;
  background: var(--card); color: inherit; font: inherit; }
#reset { border: 1px solid var(--line); margin: .5rem 0; }
#said { font-size: .85rem; color: var(--grey); min-height: 1.3rem; }
"""

_SCRIPT = """
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const places = new Uint16Array(bytes(data.points).buffer), groups = bytes(data.groups);
  const n = groups.length, canvas = document.querySelector("canvas");
  const context = canvas.getContext("2d"), tip = document.getElementById("tip");
  const said = document.getElementById("said"), find = document.getElementById("find");
  const shown = data.colours.map(() => true);
  // Points by group, the last group first, so that grey ones hide nothing.
  const order = new Uint32Array(n), starts = new Uint32Array(data.colours.length + 1);
  for (let k = 0; k < n; k++) starts[groups[k] + 1]++;
  for (let g = 0; g < data.colours.length; g++) starts[g + 1] += starts[g];
  const next = starts.slice();
  for (let k = 0; k < n; k++) order[next[groups[k]]++] = k;
  // Cells in which a pointer looks for its point.
  const CELLS = 256, cell = (k) => (places[2 * k] >> 8) * CELLS + (places[2 * k + 1] >> 8);
  const cells = new Uint32Array(CELLS * CELLS + 1), inside = new Uint32Array(n);
  for (let k = 0; k < n; k++) cells[cell(k) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) cells[c + 1] += cells[c];
  const free = cells.slice();
  for (let k = 0; k < n; k++) inside[free[cell(k)]++] = k;

  let width = 0, height = 0, scale = 1, left = 0, top = 0, found = [], waiting = false;
  const fit = () => {
    scale = 0.94 * Math.min(width / data.span[0], height / data.span[1]);
    left = (width - scale * data.span[0]) / 2;
    top = (height - scale * data.span[1]) / 2;
  };
  const x = (k) => left + scale * places[2 * k];
  const y = (k) => top + scale * (data.span[1] - places[2 * k + 1]);
  const paint = () => {
    waiting = false;
    const began = performance.now();
    const dot = Math.min(Math.max(Math.sqrt(width * height / n) * 0.25, 1.5), 6) *
      Math.min(Math.max(Math.sqrt(scale * 65535 / Math.min(width, height)), 1), 3);
    context.clearRect(0, 0, width, height);
    for (let g = data.colours.length - 1; g >= 0; g--) {
      if (!shown[g]) continue;
      context.fillStyle = data.colours[g];
      for (let i = starts[g]; i < starts[g + 1]; i++) {
        const k = order[i], px = x(k), py = y(k);
        if (px > -dot && py > -dot && px < width + dot && py < height + dot)
          context.fillRect(px - dot / 2, py - dot / 2, dot, dot);
      }
    }
    context.strokeStyle = getComputedStyle(canvas).color;
    context.lineWidth = 2;
    for (const k of found.slice(0, 500)) {
      context.beginPath();
      context.arc(x(k), y(k), dot + 3, 0, 7);
      context.stroke();
    }
    canvas.dataset.paints = Number(canvas.dataset.paints || 0) + 1;
    canvas.dataset.milliseconds = (performance.now() - began).toFixed(1);
  };
  const draw = () => { if (!waiting) { waiting = true; requestAnimationFrame(paint); } };
  const resize = () => {
    const ratio = devicePixelRatio || 1, first = !width;
    width = canvas.clientWidth; height = canvas.clientHeight;
    canvas.width = width * ratio; canvas.height = height * ratio;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (first) fit();
    draw();
  };
  new ResizeObserver(resize).observe(canvas);

  const zoom = (factor, px, py) => {
    left = px + (left - px) * factor; top = py + (top - py) * factor; scale *= factor;
    draw();
  };
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * 0.0015), event.offsetX, event.offsetY);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const factors = { "+": 1.3, "-": 1 / 1.3 };
    if (event.key in steps) {
      left += 40 * steps[event.key][0];
      top += 40 * steps[event.key][1];
      draw();
    } else if (event.key in factors) zoom(factors[event.key], width / 2, height / 2);
    else return;
    event.preventDefault();
  });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    held = [event.clientX - left, event.clientY - top];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", () => { held = null; });
  const nearest = (px, py) => {
    const reach = 8 / scale, cx = (px - left) / scale, cy = data.span[1] - (py - top) / scale;
    let best = -1, least = reach * reach;
    const low = (v) => Math.max((v - reach) >> 8, 0);
    const high = (v) => Math.min((v + reach) >> 8, CELLS - 1);
    for (let a = low(cx); a <= high(cx); a++)
      for (let b = low(cy); b <= high(cy); b++)
        for (let i = cells[a * CELLS + b]; i < cells[a * CELLS + b + 1]; i++) {
          const k = inside[i], dx = places[2 * k] - cx, dy = places[2 * k + 1] - cy;
          const far = dx * dx + dy * dy;
          if (shown[groups[k]] && far < least) { least = far; best = k; }
        }
    return best;
  };
  canvas.addEventListener("pointermove", (event) => {
    if (held) {
      left = event.clientX - held[0];
      top = event.clientY - held[1];
      tip.hidden = true;
      draw();
      return;
    }
    const k = nearest(event.offsetX, event.offsetY);
    tip.hidden = k < 0;
    if (k < 0) return;
    tip.textContent = `${data.ids[k]} \u00b7 ${data.column}: ${data.texts[data.text[k]]}`;
    tip.style.left = Math.min(event.offsetX + 12, width - tip.offsetWidth - 4) + "px";
    tip.style.top = Math.min(event.offsetY + 12, height - tip.offsetHeight - 4) + "px";
  });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  for (const button of document.querySelectorAll("#key button")) {
    const g = Number(button.dataset.group);
    button.querySelector("i").style.background = data.colours[g];
    button.addEventListener("click", () => {
      shown[g] = !shown[g];
      button.setAttribute("aria-pressed", shown[g]);
      draw();
    });
    button.addEventListener("dblclick", () => {  // this group alone, or all again
      const alone = shown.every((on, k) => on === (k === g));
      for (const other of document.querySelectorAll("#key button")) {
        const k = Number(other.dataset.group);
        shown[k] = alone || k === g;
        other.setAttribute("aria-pressed", shown[k]);
      }
      draw();
    });
  }
  find.addEventListener("input", () => {
    const text = find.value.trim().toLowerCase();
    found = [];
    for (let k = 0; text && k < n; k++)
      if (data.ids[k].toLowerCase().includes(text)) found.push(k);
    said.textContent = text ? found.length.toLocaleString("en") + " found" : "";
    draw();
  });
  document.getElementById("reset").addEventListener("click", () => { fit(); draw(); });
})();
"""


def map_page(
    title: str, words: str, points: NDArray[np.float32], ids: list[str], colours: Colouring
) -> str:
    """Write the page.

    Parameters
    ----------
    title, words : str
        What it shows, as plain text.
    points : ndarray, shape=(n, 2)
        Where the sequences are.
    ids : list of str
        What they are called.
    colours : Colouring
        What colours them.

    Returns
    -------
    str
        HTML.
    """
    from riboray.embedding.mapping import palette_of

    low = points.min(axis=0)
    span = np.maximum(points.max(axis=0) - low, 1e-12)
    # 16 bits a coordinate, one scale for both: finer than any screen.
    placed = np.round((points - low) / span.max() * 65535).astype("<u2")
    distinct = sorted(set(colours.texts))
    place = {text: k for k, text in enumerate(distinct)}
    data = {
        "points": base64.b64encode(placed.tobytes()).decode(),
        "groups": base64.b64encode(colours.groups.tobytes()).decode(),
        "span": np.maximum(placed.max(axis=0), 1).tolist(),
        "ids": [printable(name, 80) for name in ids],
        "column": printable(colours.column, 40),
        "texts": [printable(text, 80) for text in distinct],
        "text": [place[text] for text in colours.texts],
        "colours": palette_of(colours)[: len(colours.names)],
    }
    # Nothing in it can end the element, nor open a comment.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    key = "\n".join(
        f'<button type="button" data-group="{k}" aria-pressed="true"><i></i>'
        f"{escape(printable(name, 60))}</button>"
        for k, name in enumerate(colours.names)
    )
    body = f"""<h1>{escape(title)}</h1>
<p class="lead">{escape(words)} Wheel or + and - zoom, dragging or arrow keys move; a click in the
key hides a group, a double click shows it alone.</p>
<noscript><p class="warning">The map needs JavaScript; the picture does not.</p></noscript>
<div class="map"><div class="stage">
<canvas tabindex="0" role="img" aria-label="{escape(title)}"></canvas>
<div id="tip" hidden></div></div>
<div><label for="find">Find ids</label> <input id="find" type="search" autocomplete="off">
<div id="said" role="status"></div><button id="reset" type="button">Whole map</button>
<b>{escape(printable(colours.column, 40))}</b><div id="key">
{key}
</div></div></div>
<script type="application/json" id="data">{text}</script>
"""
    return html_page(title, body, css=_CSS, script=_SCRIPT)
