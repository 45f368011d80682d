"""The verb `map`: embeddings in the plane, as a picture and as a page to explore."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from riboray.console import say
from riboray.embedding.mapping_page import map_page
from riboray.embedding.schema import column_name
from riboray.embedding.store import EmbeddingSet
from riboray.errors import ConfigError, CorpusError
from riboray.manifest import atomic_path, check_writable

__all__ = ["Colouring", "MapConfig", "colour_by", "make_map", "project"]

#: Values of a column that get a colour of their own.
_COLOURS = 19
_OTHERS = "others"
_UNKNOWN = "unknown"

#: Principal components that UMAP gets; more only cost time.
_COMPONENTS = 50


@dataclass(frozen=True, kw_only=True)
class MapConfig:
    """Draw embeddings in the plane: ``riboray map EMBEDDINGS --color-by rna_type``.

    Makes a picture (PNG) and a page of one file with zoom, search and a key that hides groups.
    """

    POSITIONAL: ClassVar[str] = "embeddings"

    embeddings: list[str] = field(default_factory=list)
    """Directory that `riboray embed` made; may be given without the flag."""
    output: str | None = None
    """Page to write; the picture lies beside it. By default NAME-map.html beside the directory
    NAME."""
    color_by: str | None = None
    """Column to colour by: one of the embeddings (rna_type, family, length, pseudo_perplexity, …)
    or of --metadata. By default rna_type, family or length, the first that is there."""
    metadata: str | None = None
    """Table with more columns: tab- or comma-separated or Parquet, with ids in its first column or
    in one called id."""
    method: Literal["auto", "umap", "pca"] = "auto"
    """Layout: UMAP (needs the extra: pip install 'riboray[map]') or two principal components. auto:
    UMAP if it is installed."""
    layer: int | None = None
    """Layer to draw, if the embeddings have several; by default the last of them."""
    max_points: int = 100000
    """Sequences drawn, at most; of more, as many are drawn by chance."""
    neighbors: int = 15
    """UMAP's size of neighbourhoods: small ones show detail, large ones the whole."""
    seed: int = 0
    """Of the sample and of UMAP."""

    def __post_init__(self) -> None:
        if len(self.embeddings) != 1:
            raise ConfigError(f"give one directory of embeddings, not {len(self.embeddings)}")
        if self.max_points < 2:
            raise ConfigError(f"max_points must be at least 2, not {self.max_points}")
        if self.output is not None and not self.output.endswith(".html"):
            raise ConfigError(f"--output must end in .html, not {Path(self.output).name}")
        if self.neighbors < 2:
            raise ConfigError(f"neighbors must be at least 2, not {self.neighbors}")


@dataclass(frozen=True)
class Colouring:
    """What the colours of points mean.

    Attributes
    ----------
    column : str
        Name of the column, or nothing.
    groups : ndarray, shape=(n,), dtype=uint8
        Colour of each point.
    names : list of str
        What each colour stands for, with its count.
    scale : tuple of (float, float), optional
        For numbers, what the first and the last colour stand for.
    texts : list of str
        The value of each point.
    """

    column: str
    groups: NDArray[np.uint8]
    names: list[str]
    scale: tuple[float, float] | None
    texts: list[str]


def make_map(config: MapConfig) -> dict[str, Any]:
    """Draw a directory of embeddings; return what was drawn.

    Raises
    ------
    CorpusError
        If there are no embeddings, or not the column asked for.
    ConfigError
        If UMAP is asked for and not installed.
    """
    directory = Path(config.embeddings[0]).resolve()
    stored = EmbeddingSet.open(directory)
    if len(stored) < 2:
        raise CorpusError(directory, "holds fewer than two embeddings: nothing to draw")
    method = _method(config.method)
    page = Path(config.output or directory.with_name(f"{directory.name}-map.html")).resolve()
    check_writable(page, "output")
    if page.with_suffix(".png").exists() and not page.exists():
        raise ConfigError(f"{page.with_suffix('.png')} is there and no picture of this page")
    layers = list(stored.details["layers"])
    layer = layers[-1] if config.layer is None else config.layer
    if layer not in layers:
        raise ConfigError(f"the embeddings have layers {layers}, not {layer}")
    generator = np.random.default_rng(config.seed)
    count = min(config.max_points, len(stored))
    rows = np.sort(generator.choice(len(stored), count, replace=False))
    vectors = _take(stored, rows, column_name("embedding", layer, layers))
    ids = stored.ids.take(pa.array(rows)).to_pylist()
    colours = colour_by(_column(config, stored, rows, ids))
    say(f"  {count:,} of {len(stored):,} sequences, laid out by {method.upper()}")
    points = project(vectors, method, config.neighbors, config.seed)
    from matplotlib import rc_context

    title = f"{directory.name}: {count:,} RNAs"
    words = _words(method, count, len(stored), layer, stored.pooling)
    with atomic_path(page) as temporary:
        temporary.write_text(map_page(title, words, points, ids, colours), "utf-8")
    picture = page.with_suffix(".png")
    with rc_context({"text.parse_math": False}):  # a dollar sign in a name begins no formula
        _draw(picture, title, points, colours)
    say(f"  page        {page}")
    say(f"  picture     {picture}")
    return {
        "page": str(page),
        "picture": str(picture),
        "points": count,
        "method": method,
        "color_by": colours.column,
    }


def _method(asked: str) -> str:
    if asked == "pca":
        return asked
    try:
        import umap  # noqa: F401
    except ImportError:
        if asked == "auto":
            return "pca"
        message = "UMAP is not installed: pip install 'riboray[map]', or use --method pca"
        raise ConfigError(message) from None
    return "umap"


def _take(stored: EmbeddingSet, rows: NDArray[np.int64], column: str) -> NDArray[np.float32]:
    vectors = np.empty((len(rows), 0), np.float32)
    for number, places, local in stored.by_file(rows):
        part = stored.views_of(number, column)[local]
        if not vectors.shape[1]:
            vectors = np.empty((len(rows), part.shape[1]), np.float32)
        vectors[places] = part
    return vectors


def _column(
    config: MapConfig, stored: EmbeddingSet, rows: NDArray[np.int64], ids: list[str]
) -> tuple[str, pa.Array]:
    """Return name and values of the column to colour by."""
    table = None if config.metadata is None else _metadata(config.metadata)
    names = [n for n in stored.schema.names if not n.startswith(("embedding", "per_base"))]
    if config.color_by is None:
        usual = ("rna_type", "family", "length")
        name = table.column_names[1] if table else next(n for n in usual if n in names)
    else:
        name = config.color_by
    if table is not None and name in table.column_names:
        known = dict(zip(table["id"].to_pylist(), range(len(table)), strict=True))
        rows_of = pa.array([known.get(i) for i in ids], pa.int64())
        if rows_of.null_count == len(ids):
            raise CorpusError(str(config.metadata), "names none of the sequences in its ids")
        return name, table[name].combine_chunks().take(rows_of)
    if name not in names:
        has = [*names, *(table.column_names[1:] if table else [])]
        raise ConfigError(f"no column {name!r} to colour by; there are {', '.join(has)}")
    return name, stored.column(name).take(pa.array(rows)).combine_chunks()


def _metadata(path: str) -> pa.Table:
    """Read a table; its column of ids comes first and is called ``id``."""
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    try:
        if path.endswith(".parquet"):
            table = pq.read_table(path)
        else:
            comma = ".csv" in Path(path).name.lower()
            options = csv.ParseOptions(delimiter="," if comma else "\t")
            with csv.open_csv(path, parse_options=options) as reader:
                names = reader.schema.names
            # Ids are text, whatever they look like: 001 is not 1, and NA is a name.
            kinds = {"id" if "id" in names else names[0]: pa.string()}
            conversion = csv.ConvertOptions(column_types=kinds, strings_can_be_null=False)
            table = csv.read_csv(path, parse_options=options, convert_options=conversion)
    except (pa.ArrowException, OSError) as error:
        raise CorpusError(path, f"not a table that can be read ({error})") from error
    if len(set(table.column_names)) < len(table.column_names):
        raise CorpusError(path, "has two columns of one name")
    first = "id" if "id" in table.column_names else table.column_names[0]
    others = [name for name in table.column_names if name != first]
    if not others:
        raise CorpusError(path, "has one column only: nothing to colour by")
    ordered = table.select([first, *others]).rename_columns(["id", *others])
    return ordered.set_column(0, "id", ordered["id"].cast(pa.string()))


def colour_by(column: tuple[str, pa.Array]) -> Colouring:
    """Give every point a colour.

    Parameters
    ----------
    column : tuple of (str, pa.Array)
        Name and values. Numbers get a scale between their 1st and 99th percentile, anything else a
        colour for each of the commonest values.
    """
    name, values = column
    kind = values.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and name != "taxid"):
        return _scaled(name, values)
    texts = [_UNKNOWN if v is None else str(v) for v in values.to_pylist()]
    counts = Counter(text for text in texts if text != _UNKNOWN)
    common = [n for n, _ in sorted(counts.items(), key=lambda c: (-c[1], c[0]))]
    places = {text: k for k, text in enumerate(common[:_COLOURS])}
    rest = len(places)
    groups = np.array([places.get(text, rest) for text in texts], np.uint8)
    names = [f"{text} ({counts[text]:,})" for text in places]
    if others := int((groups == rest).sum()):
        unknown = texts.count(_UNKNOWN)
        words = _OTHERS if others > unknown else _UNKNOWN
        names.append(f"{words} ({others:,})")
    return Colouring(name, groups, names, None, texts)


def _scaled(name: str, values: pa.Array) -> Colouring:
    numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    known = np.isfinite(numbers)
    low, high = np.percentile(numbers[known], [1, 99]) if known.any() else (0.0, 1.0)
    span = max(high - low, 1e-12)
    share = np.clip((np.where(known, numbers, low) - low) / span, 0, 1)
    groups = np.where(known, np.round(share * (_COLOURS - 1)), _COLOURS).astype(np.uint8)
    edges = np.linspace(low, high, _COLOURS)
    names = [f"{edge:.4g}" for edge in edges]
    if not known.all():
        names.append(f"{_UNKNOWN} ({int((~known).sum()):,})")
    texts = [f"{number:.6g}" if ok else _UNKNOWN for number, ok in zip(numbers, known, strict=True)]
    return Colouring(name, groups, names, (float(low), float(high)), texts)


def project(
    vectors: NDArray[np.float32], method: str, neighbors: int = 15, seed: int = 0
) -> NDArray[np.float32]:
    """Lay vectors out in the plane.

    Parameters
    ----------
    vectors : ndarray, shape=(n, H)
        At least two.
    method : str
        ``umap`` (McInnes et al. 2018, doi:10.21105/joss.00861) or ``pca``.
    neighbors, seed : int
        Of UMAP.

    Returns
    -------
    ndarray, shape=(n, 2), dtype=float32
        The same on every call, but for the rounding of another machine.
    """
    from sklearn.decomposition import PCA

    size = _COMPONENTS if method == "umap" else 2
    reducer = PCA(min(size, *vectors.shape), random_state=seed)
    reduced = reducer.fit_transform(vectors.astype(np.float32))
    if method == "umap" and len(vectors) > 3:
        import umap

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a seed rules out threads
            layout = umap.UMAP(n_neighbors=min(neighbors, len(vectors) - 1), random_state=seed)
            reduced = layout.fit_transform(reduced)
    points = np.zeros((len(vectors), 2), np.float32)
    points[:, : min(2, reduced.shape[1])] = reduced[:, :2]
    return points


def _words(method: str, drawn: int, total: int, layer: int, pooling: str) -> str:
    how = {
        "umap": "laid out by UMAP: near neighbours tend to be similar; distances between groups, "
        "their sizes and the axes mean nothing",
        "pca": "along their first two principal components: distances are those of all dimensions "
        "as far as two can show them",
    }[method]
    some = f"{drawn:,} of {total:,} sequences, drawn by chance"
    part = some if drawn < total else f"{total:,} sequences"
    return f"{part}; {pooling} of the base embeddings of layer {layer}, {how}."


def _draw(path: Path, title: str, points: NDArray[np.float32], colours: Colouring) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 8), layout="constrained")
    axes = figure.add_subplot()
    size = float(np.clip(60_000 / len(points), 1, 24))
    palette = palette_of(colours)
    # Grey ones first, so that they hide nothing.
    for group in sorted(range(len(colours.names)), key=lambda g: -g):
        chosen = points[colours.groups == group]
        x, y = chosen.T
        axes.scatter(x, y, s=size, c=palette[group], linewidths=0, label=colours.names[group])
    if colours.scale is None:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1, 0.5),
            frameon=False, markerscale=max(6 / size**0.5, 1), title=colours.column,
        )  # fmt: skip
    else:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        shades = ScalarMappable(Normalize(*colours.scale), "viridis")
        figure.colorbar(shades, ax=axes, label=colours.column)
    axes.set(title=title, xticks=[], yticks=[], aspect="equal")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, bbox_inches="tight")


def palette_of(colours: Colouring) -> list[str]:
    """Return a colour for every group: hues for names, shades for numbers, grey for the rest."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if colours.scale is not None:
        shades = [to_hex(colormaps["viridis"](k / (_COLOURS - 1))) for k in range(_COLOURS)]
        return [*shades, "#9a9aa0"]
    # Strong hues first, then their light partners; without its two greys.
    table = [to_hex(colormaps["tab20"](k)) for k in range(20)]
    hues = [h for k, h in [*enumerate(table[::2]), *enumerate(table[1::2])] if k != 7]
    found = [*hues, "#33334d"][:_COLOURS]
    named = len(colours.names) - bool(
        colours.names and colours.names[-1].startswith((_OTHERS, _UNKNOWN))
    )
    return [*found[:named], "#b4b4ba"]
