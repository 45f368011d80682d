"""Style and script of a run's report, beside the style of all pages."""

from __future__ import annotations

__all__ = ["CSS", "SCRIPT"]

_TYPES_LIGHT = """--t0: #0072b2; --t1: #d55e00; --t2: #009e73; --t3: #cc5fa0; --t4: #b8860b;
  --t5: #56b4e9; --t6: #6a3d9a; --t7: #8b4a2b; --t8: #6b8e23; --other: #b4b4bc;
  --ok: #c9ecdf; --bad: #fbd5b8; --band: #f1f1f6;"""
_TYPES_DARK = """--t0: #4a9fe0; --t1: #ff8a3d; --t2: #2cc295; --t3: #ec8fc5; --t4: #e3bb3f;
  --t5: #a5dcff; --t6: #b18ae6; --t7: #c98b66; --t8: #a9c95c; --other: #5a5a63;
  --ok: #11503d; --bad: #6d3410; --band: #24242b;"""

_TYPES = "\n".join(f".t{k} {{ --c: var(--t{k}); }}" for k in range(9))

CSS = f"""
:root {{ {_TYPES_LIGHT} }}
@media (prefers-color-scheme: dark) {{ :root {{ {_TYPES_DARK} }} }}
@media print {{ :root {{ {_TYPES_LIGHT} }} }}
h1 {{ display: flex; flex-wrap: wrap; gap: .3rem .8rem; align-items: center;
  overflow-wrap: anywhere; }}
h2 {{ margin: 2rem 0 .4rem; }} h3 {{ font-size: 1rem; margin: 1rem 0 .2rem; }}
h4 {{ font-size: .85rem; font-weight: 600; margin: .5rem 0 .1rem; color: var(--grey); }}
p {{ margin: .4rem 0; }}
.hidden {{ position: absolute; width: 0; height: 0; }}
.faint {{ color: var(--grey); }}
.state {{ font-size: .85rem; font-weight: 600; padding: .1rem .6rem; border-radius: 1rem;
  border: 1px solid currentcolor; }}
.finished {{ color: var(--green); }} .going-on {{ color: var(--blue); }}
.stopped {{ color: var(--red); }}
.progress {{ height: 6px; margin: .6rem 0; border-radius: 3px; background: var(--line); }}
.progress span {{ display: block; height: 100%; border-radius: 3px; background: var(--blue); }}
.facts {{ display: grid; gap: .5rem 1.5rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); }}
.facts div {{ border-top: 1px solid var(--line); padding-top: .25rem; min-width: 0; }}
dt {{ color: var(--grey); font-size: .85rem; }} dd {{ margin: 0; overflow-wrap: anywhere; }}
.command-title {{ margin-top: 1rem; }}
pre {{ margin: 0; font: .8rem/1.45 ui-monospace, monospace; }}
.command {{ padding: .6rem .8rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); white-space: pre-wrap; overflow-wrap: anywhere; }}
details {{ margin: 1rem 0; }} summary {{ cursor: pointer; }}
details td {{ overflow-wrap: anywhere; }} details td:first-child {{ overflow-wrap: normal; }}
.marked td {{ font-weight: 650; background: var(--band); }}
.charts {{ display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); }}
.chart {{ display: flex; flex-direction: column; }} .chart > svg {{ margin-top: auto; }}
figcaption {{ font-size: .85rem; }}
.unit {{ color: var(--grey); }}
.keys {{ display: flex; flex-wrap: wrap; gap: 0 1rem; min-height: 1.5em; }}
.keys > span {{ white-space: nowrap; }} .keys b {{ color: var(--ink); }}
svg.key {{ display: inline-block; width: 22px; height: 10px; margin-right: .35rem; }}
.blue {{ --c: var(--blue); }} .red {{ --c: var(--red); }} .green {{ --c: var(--green); }}
.orange {{ --c: var(--orange); }} .grey {{ --c: var(--grey); }}
.chart text {{ font: 13px system-ui, sans-serif; fill: var(--ink);
  font-variant-numeric: tabular-nums; }}
.chart .x, .chart .phase {{ text-anchor: middle; }}
.chart .y, .chart .end .x {{ text-anchor: end; }}
.chart text.faint, .chart .phase {{ fill: var(--grey); }} .chart .phase {{ font-size: 11px; }}
.band0 {{ fill: none; }} .band1 {{ fill: var(--band); }}
.grid {{ stroke: var(--line); stroke-width: .7; fill: none; }}
.axis {{ stroke: var(--grey); fill: none; }}
.limit {{ stroke: var(--grey); stroke-dasharray: 2 3; fill: none; }}
.line {{ stroke: var(--c); stroke-width: 1.8; fill: none; stroke-linejoin: round; }}
.noise {{ stroke: var(--c); stroke-width: .9; fill: none; opacity: .35; }}
.chart circle, .key circle {{ fill: var(--c); }}
.mark path {{ stroke: var(--c); stroke-dasharray: 3 3; stroke-width: 1; fill: none; }}
.mark .flag {{ fill: var(--c); stroke-dasharray: none; }}
.chart .halo {{ paint-order: stroke; stroke: var(--card); stroke-width: 4px; }}
.cursor {{ stroke: var(--grey); stroke-width: 1; }}
.events {{ padding-left: 1.6rem; margin: .3rem 0; font-size: .9rem; overflow-wrap: anywhere; }}
.events span[class] {{ color: var(--c, var(--grey)); }}
.example {{ margin: 1rem 0; padding: .8rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }}
.example h3 {{ margin: 0; overflow-wrap: anywhere; }}
.rank {{ font-size: .8rem; padding: 0 .5rem; border: 1px solid var(--grey); border-radius: 1rem;
  color: var(--grey); font-weight: 600; }}
.alignment {{ display: flex; flex-wrap: wrap; gap: .3rem 1ch; }}
.chunk {{ min-width: 10ch; }}
.ok {{ background: var(--ok); }} .bad {{ background: var(--bad); }}
.text {{ margin: .2rem 0; font-size: .8rem; color: var(--grey); }} .text pre {{ overflow-x: auto; }}
.map {{ display: grid; gap: 1rem; grid-template-columns: minmax(0, 3fr) minmax(12rem, 1fr); }}
.map figcaption {{ display: flex; flex-direction: column; gap: .15rem; }}
.map .entry {{ overflow-wrap: anywhere; }} .map b + .entry {{ margin-top: 0; }}
.map b {{ margin-top: .5rem; }} .map .key {{ width: 12px; height: 12px; }}
.map circle, .map path {{ fill: var(--c); fill-opacity: .8; }}
.map .held {{ stroke: var(--ink); stroke-width: 1; fill-opacity: 1; }}
{_TYPES}
.other {{ --c: var(--other); }} .plain {{ --c: var(--grey); }}
.map .dim {{ opacity: .08; }}
.tip {{ position: fixed; z-index: 9; pointer-events: none; max-width: min(22rem, 90vw);
  padding: .35rem .6rem; border: 1px solid var(--grey); border-radius: 5px; font-size: .8rem;
  line-height: 1.4; background: var(--card); color: var(--ink); overflow-wrap: anywhere; }}
.tip div::before {{ content: ""; display: inline-block; width: .6rem; height: .6rem;
  margin-right: .4rem; border-radius: 50%; background: var(--c, transparent); }}
.tip div:first-child::before {{ display: none; }}
footer {{ margin: 2rem 0 0; font-size: .85rem; overflow-wrap: anywhere; }}
@media (max-width: 44rem) {{ .map {{ grid-template-columns: minmax(0, 1fr); }} }}
@media print {{ body {{ max-width: none; padding: 0; font-size: 10pt; }}
  .table {{ overflow: visible; }} table {{ font-size: 7pt; }}
  .tip {{ display: none; }} .charts {{ grid-template-columns: 1fr 1fr; }}
  figure, .example, tr {{ break-inside: avoid; }} h2, h3, h4 {{ break-after: avoid; }}
  details::details-content {{ content-visibility: visible; block-size: auto; }}
  .text {{ display: none; }}
  .ok, .bad, .marked td, .progress, .progress span {{ print-color-adjust: exact; }} }}
"""

#: Shows values under the pointer. It reads what the page holds and writes text only.
SCRIPT = """"use strict";
(() => {
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);

  function show(event, lines) {
    tip.replaceChildren(...lines.map(([text, css]) => {
      const line = document.createElement("div");
      line.textContent = text;
      if (css) line.className = css;
      return line;
    }));
    tip.hidden = false;
    const box = tip.getBoundingClientRect(), gap = 14;
    const right = event.clientX + gap + box.width < innerWidth;
    const x = right ? event.clientX + gap : event.clientX - gap - box.width;
    const y = Math.min(event.clientY + gap, innerHeight - box.height - 4);
    tip.style.left = Math.max(x, 2) + "px";
    tip.style.top = Math.max(y, 2) + "px";
  }

  function clock(seconds) {
    if (seconds < 120) return seconds + " s";
    if (seconds < 7200) return (seconds / 60).toFixed(1) + " min";
    const minutes = Math.round(seconds / 60), hours = Math.floor(minutes / 60);
    if (hours < 48) return hours + " h " + minutes % 60 + " min";
    return Math.floor(hours / 24) + " d " + hours % 24 + " h";
  }

  function figure(value, percent) {
    const number = percent ? 100 * value : value;
    const text = Math.abs(number) >= 1000 ? Math.round(number).toLocaleString("en")
      : String(Number(number.toPrecision(4)));
    return percent ? text + " %" : text;
  }

  function nearest(places, x) {
    let low = 0, high = places.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (places[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(places[low] - x) <= Math.abs(places[high] - x) ? low : high;
  }

  for (const svg of document.querySelectorAll("svg[data-hover]")) {
    const chart = JSON.parse(svg.dataset.hover);
    const [width, , top, bottom, least, most] = chart.frame;
    const made = (name) => document.createElementNS("http://www.w3.org/2000/svg", name);
    const cursor = made("g");
    svg.append(cursor);
    for (const title of svg.querySelectorAll("title")) {
      if (!title.closest(".mark, rect")) title.remove();
    }
    const main = chart.lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * width / box.width;
      const at = nearest(main.x, x);
      const lines = [["step " + main.step[at].toLocaleString("en") + ", " + clock(main.time[at])]];
      const rule = made("path");
      rule.setAttribute("class", "cursor");
      rule.setAttribute("d", `M${main.x[at]} ${top}V${bottom}`);
      const shapes = [rule];
      for (const line of chart.lines) {
        const k = line === main ? at : nearest(line.x, x);
        const value = line.value[k];
        if (value === null || value === undefined) continue;
        let text = line.name + " " + figure(value, chart.percent);
        if (line.average) text += " (average " + figure(line.average[k], chart.percent) + ")";
        if (line.step[k] !== main.step[at]) {
          text += ", step " + line.step[k].toLocaleString("en");
        }
        lines.push([text, line.colour]);
        const shown = line.average ? line.average[k] : value;
        const dot = made("circle");
        dot.setAttribute("cx", line.x[k]);
        dot.setAttribute("cy", bottom - (shown - least) / (most - least) * (bottom - top));
        dot.setAttribute("r", 3.5);
        const group = made("g");
        group.setAttribute("class", line.colour);
        group.append(dot);
        shapes.push(group);
      }
      const mark = event.target.closest(".mark");
      if (mark) lines.push([mark.querySelector("title").textContent, mark.classList[1]]);
      cursor.replaceChildren(...shapes);
      show(event, lines);
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; cursor.replaceChildren(); });
  }

  for (const map of document.querySelectorAll(".map")) {
    const points = [...map.querySelectorAll("svg:not(.key) > *")];
    const words = new Map();
    for (const point of points) {
      const title = point.querySelector("title");
      words.set(point, title.textContent);
      title.remove();
    }
    map.addEventListener("pointermove", (event) => {
      const text = words.get(event.target);
      if (text === undefined) { tip.hidden = true; return; }
      show(event, [[""], [text, event.target.classList[0]]]);
    });
    map.addEventListener("pointerleave", () => { tip.hidden = true; });
    for (const entry of map.querySelectorAll(".entry[data-type]")) {
      const type = entry.dataset.type;
      if (type === "plain") continue;
      entry.addEventListener("pointerenter", () => {
        for (const point of points) point.classList.toggle("dim", !point.classList.contains(type));
      });
      entry.addEventListener("pointerleave", () => {
        for (const point of points) point.classList.remove("dim");
      });
    }
  }

  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details:not(.text)")) folded.open = true;
  });
})();
"""
