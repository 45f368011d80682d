"use strict";

// The page of a riboray service: what is typed goes to this service's API, and its answers are drawn.

const at = (id) => document.getElementById(id);
const EXAMPLE = `>tRNA-Phe
GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA
>tRNA-Asp
UCCGUGAUAGUUUAAUGGUCAGAAUGGGCGCUUGUCGCGUGCCAGAUCGGGGUUCAAUUCCCCGUCGCGGAGCCA
`;
const TABS = ["align", "fill", "map", "embed"];
const SVG = "http://www.w3.org/2000/svg";
const COLOURS = ["#0550ae", "#a40e26", "#1a7f37", "#8a4600", "#6639ba", "#0a7a85", "#bf3989", "#57606a",
  "#7d6608"];
let chosen = "align", longest = 440;

/** Make an element with attributes and children; text is text, never markup. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "g", "text", "circle", "rect", "path", "title", "line"].includes(name);
  const element = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function readFasta(text) {
  const found = [];
  for (const line of text.split(/\r\n|\r|\n/)) {
    const trimmed = line.trim();
    if (trimmed.startsWith(">")) {
      const id = trimmed.slice(1).trim().split(/\s+/)[0];
      found.push({id: id || `RNA ${found.length + 1}`, sequence: ""});
    } else if (trimmed && !trimmed.startsWith(";")) {
      if (!found.length) found.push({id: "RNA 1", sequence: ""});
      found[found.length - 1].sequence += trimmed.replace(/\s+/g, "");
    }
  }
  return found;
}

class Trouble extends Error {}

/** Ask the service; a key that is needed is asked for. */
async function ask(path, body, accept = "application/json") {
  const headers = {accept};
  if (body) headers["content-type"] = "application/json";
  if (at("key").value) headers.authorization = `Bearer ${at("key").value}`;
  let answer;
  try {
    answer = await fetch(path, {method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body)});
  } catch {
    throw new Trouble("The service cannot be reached.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401 || answer.status === 403) at("key-row").hidden = false;
  let told = `The service answered ${answer.status}.`;
  try {
    const error = (await answer.json()).error;
    const which = error.index === undefined ? "" : `RNA ${error.index + 1}: `;
    told = which + error.message;
  } catch { /* no JSON: the status says what there is to say */ }
  throw new Trouble(told);
}

function saves(name, type, content) {
  const button = make("button", {type: "button"}, name.replace(/^.*\./, "").toUpperCase() + " ↓");
  button.setAttribute("aria-label", `Download ${name}`);
  button.addEventListener("click", () => {
    const link = make("a", {href: URL.createObjectURL(new Blob([content()], {type})), download: name});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  return button;
}

const csv = (rows) => rows.map((row) => row.map((cell) => {
  const text = String(cell ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}).join(",")).join("\n") + "\n";

function colour(text) {
  return [...text].map((letter) => "ACGU".includes(letter)
    ? make("span", {class: letter}, letter) : document.createTextNode(letter));
}

// -- align -----------------------------------------------------------------------------------

async function align(rnas) {
  if (rnas.length < 2) throw new Trouble("Two RNAs are needed to align.");
  const [query, target] = rnas;
  const penalty = (id, name) => {
    const value = at(id).value.trim() === "" ? NaN : Number(at(id).value);
    if (!(value >= 0 && value <= 100)) throw new Trouble(`Gap ${name}: a number from 0 to 100.`);
    return value;
  };
  const size = query.sequence.length * target.sequence.length;
  const body = {
    query, targets: [target], mode: at("mode").value, similarity: size <= 250000,
    gaps: {open: penalty("gap-open", "opens"), extend: penalty("gap-extend", "extends")},
  };
  const found = (await (await ask("/v1/align", body)).json()).results[0];
  if (found.error) throw new Trouble(`${target.id}: ${found.error.message}`);
  const pairs = found.column_scores.filter((score) => score !== null).length;
  const facts = make("p", {}, `Score ${found.score.toFixed(3)} · ${pairs} pairs, ${found.identities} identical · `
    + `${found.aligned_length} columns · ${found.cigar}`);
  const parts = [make("h2", {}, `${query.id} with ${target.id}`), facts, alignmentRows(query.id, target.id, found)];
  if (found.similarity) parts.push(heatMap(query.id, target.id, found));
  parts.push(make("p", {class: "row"},
    saves("alignment.csv", "text/csv", () => csv([["column", "query", "target", "score"],
      ...found.column_scores.map((score, k) => [k + 1, found.query_aligned[k], found.target_aligned[k], score])])),
    saves("alignment.fa", "text/plain", () =>
      `>${query.id}\n${found.query_aligned}\n>${target.id}\n${found.target_aligned}\n`),
    saves("alignment.sto", "text/plain", () => stockholm(query.id, target.id, found))));
  return parts;
}

function stockholm(a, b, found) {
  const names = [a, b === a ? `${b}/2` : b].map((name) => name.replace(/\s+/g, "_").replace(/^(#|\/\/)/, "_$1"));
  const width = Math.max(...names.map((name) => name.length)) + 2;
  const rows = [found.query_aligned, found.target_aligned];
  return "# STOCKHOLM 1.0\n" + names.map((name, k) => name.padEnd(width) + rows[k]).join("\n") + "\n//\n";
}

function alignmentRows(a, b, found) {
  const block = make("pre", {tabindex: "0", "aria-label": "Alignment"});
  const width = Math.max(a.length, b.length, 1);
  const marks = found.column_scores.map((score, k) => score === null ? " "
    : found.query_aligned[k] === found.target_aligned[k] ? "*" : score >= 0.5 ? ":" : ".");
  for (let start = 0; start < marks.length; start += 60) {
    const part = (text) => text.slice(start, start + 60);
    block.append(a.padEnd(width) + "  ", ...colour(part(found.query_aligned)), "\n");
    block.append(" ".repeat(width) + "  " + part(marks).join("") + "\n");
    block.append(b.padEnd(width) + "  ", ...colour(part(found.target_aligned)), "\n\n");
  }
  return block;
}

function heatMap(a, b, found) {
  const rows = found.similarity, n = rows.length, m = rows[0].length;
  const cell = Math.max(1, Math.floor(640 / Math.max(n, m)));
  const canvas = make("canvas", {width: m * cell, height: n * cell, role: "img"});
  canvas.setAttribute("aria-label", `Match scores of ${n} by ${m} bases, with the alignment's path`);
  const draw = canvas.getContext("2d");
  rows.forEach((row, i) => row.forEach((score, j) => {
    const share = Math.max(0, Math.min(1, (score + 1) / 2));
    draw.fillStyle = `hsl(${240 - 190 * share} 75% ${25 + 60 * share}%)`;
    draw.fillRect(j * cell, i * cell, cell, cell);
  }));
  draw.fillStyle = "#d4002a";
  let i = 0, j = 0;
  for (let k = 0; k < found.query_aligned.length; k += 1) {
    const [up, left] = [found.query_aligned[k] !== "-", found.target_aligned[k] !== "-"];
    if (up && left && found.column_scores[k] !== null) {
      const inset = cell > 4 ? cell / 4 : 0;
      draw.fillRect(j * cell + inset, i * cell + inset, cell - 2 * inset, cell - 2 * inset);
    }
    i += up;
    j += left;
  }
  return make("figure", {}, canvas, make("figcaption", {},
    `Match scores, from -1 (blue) to 1 (yellow): ${a} downwards, ${b} to the right; red, the alignment.`));
}

// -- fill in -----------------------------------------------------------------------------------

function placesOf(text, length) {
  if (/^\s*(all)?\s*$/i.test(text)) return [...Array(length).keys()];
  const found = new Set();
  for (const part of text.split(",")) {
    const range = /^\s*(\d+)\s*(?:-\s*(\d+)\s*)?$/.exec(part);
    if (!range) throw new Trouble(`"${part.trim()}" is no position: write 5 or 3-9.`);
    const [from, to] = [Number(range[1]), Number(range[2] ?? range[1])];
    if (from < 1 || to > length || from > to) throw new Trouble(`Positions go from 1 to ${length}.`);
    for (let k = from; k <= to; k += 1) found.add(k - 1);
  }
  return [...found].sort((x, y) => x - y);
}

async function fill([rna]) {
  if (rna.sequence.length > longest) {
    throw new Trouble(`${rna.id}: ${rna.sequence.length} nucleotides are more than the model's ${longest}.`);
  }
  const text = rna.sequence, places = placesOf(at("places").value, text.length);
  const sequences = places.map((k) => `${text.slice(0, k)}<mask>${text.slice(k + 1)}`);
  const results = (await (await ask("/v1/fill-mask", {sequences, top_k: 28})).json()).results;
  const wrong = results.find((item) => item.error);
  if (wrong) throw new Trouble(`${rna.id}: ${wrong.error.message}`);
  const columns = results.map((item, k) => {
    const all = item.hidden[0].probabilities;
    const shares = [..."ACGU"].map((letter) => [letter, all[letter] ?? 0]);
    return {place: places[k], letter: text[places[k]].toUpperCase().replace("T", "U"), shares};
  });
  const right = columns.filter((c) => c.letter === [...c.shares].sort((x, y) => y[1] - x[1])[0][0]).length;
  return [
    make("h2", {}, `${rna.id}: what the model expects`),
    make("p", {}, `The likeliest is the RNA's own nucleotide at ${right} of ${columns.length} positions.`),
    ...logos(columns),
    make("p", {class: "row"}, saves("hidden.csv", "text/csv", () => csv([["position", "nucleotide", "A", "C", "G", "U"],
      ...columns.map((c) => [c.place + 1, c.letter, ...c.shares.map(([, share]) => share.toFixed(5))])]))),
  ];
}

/** Sequence logos (Schneider & Stephens 1990): letters as high as their share of the information. */
function logos(columns) {
  const parts = [];
  for (let start = 0; start < columns.length; start += 40) {
    const some = columns.slice(start, start + 40), height = 90;
    const svg = make("svg", {viewBox: `0 0 ${some.length * 18 + 4} ${height + 34}`, width: some.length * 18 + 4,
      role: "img", "aria-label": `Logo of positions ${some[0].place + 1} to ${some[some.length - 1].place + 1}`});
    some.forEach((column, k) => {
      const bits = 2 + column.shares.reduce((sum, [, p]) => sum + (p > 0 ? p * Math.log2(p) : 0), 0);
      let y = height;
      for (const [letter, share] of [...column.shares].sort((x, z) => x[1] - z[1])) {
        const tall = share * Math.max(bits, 0) / 2 * height;
        if (tall < 0.5) continue;
        svg.append(make("text", {class: `letter ${letter}`, x: 0, y: 0, "text-anchor": "middle",
          transform: `translate(${k * 18 + 10} ${y}) scale(1.3 ${tall / 14})`}, letter));
        y -= tall;
      }
      svg.append(make("text", {class: column.letter, x: k * 18 + 10, y: height + 15, "text-anchor": "middle"}, column.letter));
      if ((column.place + 1) % 10 === 0 || k === 0) {
        svg.append(make("text", {x: k * 18 + 10, y: height + 30, "text-anchor": "middle"}, String(column.place + 1)));
      }
    });
    parts.push(make("figure", {}, svg));
  }
  parts.push(make("p", {class: "note"}, "Height: information, of 2 bits. Below: the RNA itself."));
  return parts;
}

// -- map and embeddings ------------------------------------------------------------------------

async function map(rnas) {
  const found = await (await ask("/v1/map", {sequences: rnas})).json();
  const good = found.results.filter((item) => !item.error);
  const points = [...found.reference, ...good];
  const span = (name) => {
    const values = points.map((point) => point[name]);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (value) => 20 + 600 * (value - low) / (high - low || 1);
  };
  const [x, y] = [span("x"), span("y")], families = [...new Set(found.reference.map((point) => point.family))];
  const svg = make("svg", {viewBox: "0 0 640 640", width: 640, role: "img",
    "aria-label": `Map of ${good.length} RNAs among ${families.length} families`});
  for (const point of found.reference) {
    const dot = make("circle", {cx: x(point.x), cy: 640 - y(point.y), r: 4, "fill-opacity": 0.55,
      fill: COLOURS[families.indexOf(point.family) % COLOURS.length]});
    dot.append(make("title", {}, `${point.family}: ${point.id}`));
    svg.append(dot);
  }
  for (const item of good) {
    const [cx, cy] = [x(item.x), 640 - y(item.y)];
    const mark = make("path", {d: `M${cx - 8} ${cy}H${cx + 8}M${cx} ${cy - 8}V${cy + 8}`, stroke: "currentColor",
      "stroke-width": 3, fill: "none"});
    mark.append(make("title", {}, item.id));
    svg.append(mark, make("text", {x: Math.min(cx + 10, 560), y: cy - 6}, item.id.slice(0, 24)));
  }
  const key = make("p", {class: "row"}, ...families.map((family, k) => {
    const swatch = make("svg", {viewBox: "0 0 12 12", width: 12, "aria-hidden": "true"},
      make("circle", {cx: 6, cy: 6, r: 5, fill: COLOURS[k % COLOURS.length]}));
    return make("span", {}, swatch, ` ${family}`);
  }));
  return [make("h2", {}, "Among known families"), make("figure", {}, svg), key, troubles(found.results),
    make("p", {class: "row"}, saves("map.csv", "text/csv", () => csv([["family", "id", "x", "y"],
      ...found.reference.map((p) => [p.family, p.id, p.x, p.y]), ...good.map((p) => ["", p.id, p.x, p.y])])))];
}

function troubles(results) {
  const wrong = results.filter((item) => item.error);
  return make("ul", {}, ...wrong.map((item) => make("li", {class: "wrong"},
    `${item.id ?? `RNA ${item.index + 1}`}: ${item.error.message}`)));
}

async function embed(rnas) {
  const body = {sequences: rnas, pooling: at("pooling").value};
  const found = await (await ask("/v1/embed", body)).json();
  const arrow = await (await ask("/v1/embed", body, "application/vnd.apache.arrow.stream")).arrayBuffer();
  const good = found.results.filter((item) => !item.error);
  const rows = body.pooling === "none"
    ? good.flatMap((item) => item.embedding.map((row, k) => [item.id, k + 1, ...row]))
    : good.map((item) => [item.id, "", ...item.embedding]);
  const head = ["id", "position", ...Array(found.dimensions).keys()];
  const table = make("table", {}, make("tr", {}, ...["RNA", "nt", "begins with"].map((h) => make("th", {scope: "col"}, h))),
    ...good.slice(0, 100).map((item) => {
      const first = body.pooling === "none" ? item.embedding[0] : item.embedding;
      return make("tr", {}, make("td", {}, item.id), make("td", {}, String(item.length)),
        make("td", {class: "mono"}, first.slice(0, 5).map((v) => v.toFixed(3)).join("  ") + " …"));
    }));
  return [make("h2", {}, `${rows.length} embeddings of ${found.dimensions} numbers`), make("figure", {}, table),
    troubles(found.results), make("p", {class: "row"},
      saves("embeddings.csv", "text/csv", () => csv([head, ...rows])),
      saves("embeddings.arrow", "application/vnd.apache.arrow.stream", () => arrow))];
}

// -- the page ----------------------------------------------------------------------------------

const ACTIONS = {align, fill, map, embed};

function choose(name, focus = false) {
  chosen = name;
  for (const tab of TABS) {
    at(`tab-${tab}`).setAttribute("aria-selected", String(tab === name));
    at(`tab-${tab}`).tabIndex = tab === name ? 0 : -1;
    at(`panel-${tab}`).hidden = tab !== name;
  }
  if (focus) at(`tab-${name}`).focus();
}

async function go(event) {
  event.preventDefault();
  at("trouble").textContent = "";
  at("go").disabled = true;
  at("answer").setAttribute("aria-busy", "true");
  try {
    const rnas = readFasta(at("rnas").value);
    if (!rnas.length) throw new Trouble("There is no RNA yet: type or paste one, or take the example.");
    at("answer").replaceChildren(...await ACTIONS[chosen](rnas));
  } catch (error) {
    at("answer").replaceChildren();
    at("trouble").textContent = error instanceof Trouble ? error.message : `The page failed: ${error.message}`;
  } finally {
    at("go").disabled = false;
    at("answer").setAttribute("aria-busy", "false");
  }
}

async function readFile(file) {
  if (!file) return;
  if (file.size > 8 << 20) {
    at("trouble").textContent = `${file.name} has more than 8 MB: use the API or riboray embed.`;
    return;
  }
  at("rnas").value = await file.text();
  at("trouble").textContent = "";
}

async function begin() {
  TABS.forEach((name, number) => {
    const tab = at(`tab-${name}`);
    tab.addEventListener("click", () => choose(name));
    tab.addEventListener("keydown", (event) => {
      const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
      if (step) choose(TABS[(number + step + TABS.length) % TABS.length], true);
    });
  });
  choose("align");
  at("key").value = sessionStorage.getItem("riboray-key") ?? "";
  at("key").addEventListener("change", () => {
    sessionStorage.setItem("riboray-key", at("key").value);
    info();
  });
  at("example").addEventListener("click", () => { at("rnas").value = EXAMPLE; });
  at("file").addEventListener("change", (event) => readFile(event.target.files[0]));
  at("ask").addEventListener("submit", go);
  const field = at("rnas");
  field.addEventListener("dragover", (event) => { event.preventDefault(); field.classList.add("over"); });
  field.addEventListener("dragleave", () => field.classList.remove("over"));
  field.addEventListener("drop", (event) => {
    event.preventDefault();
    field.classList.remove("over");
    readFile(event.dataTransfer.files[0]);
  });
  await info();
}

async function info() {
  try {
    const told = await (await ask("/v1/info")).json();
    longest = told.checkpoint.max_sequence_length;
    at("about").textContent = `${told.model}: RNABERT of ${told.checkpoint.parameters.toLocaleString("en")} parameters, `
      + `served by riboray ${told.riboray_version}.`;
    at("trouble").textContent = "";
  } catch (error) {
    at("about").textContent = "An RNA language model.";
    at("trouble").textContent = error.message;
  }
}

begin();
