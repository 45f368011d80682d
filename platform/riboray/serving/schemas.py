"""What requests and answers look like; the OpenAPI document is made of it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "AlignItem",
    "AlignRequest",
    "AlignResponse",
    "EmbedItem",
    "EmbedRequest",
    "EmbedResponse",
    "ErrorBody",
    "ErrorResponse",
    "FillItem",
    "FillRequest",
    "FillResponse",
    "Gaps",
    "Health",
    "HiddenNucleotide",
    "Info",
    "MapItem",
    "MapPoint",
    "MapRequest",
    "MapResponse",
    "Named",
    "SearchHit",
    "SearchItem",
    "SearchRequest",
    "SearchResponse",
    "StrictRequest",
    "TaskInfo",
    "Text",
    "TokenizeItem",
    "TokenizeRequest",
    "TokenizeResponse",
    "Usage",
]

_TRNA = "GCGGAUUUAGCUCAGUUGGGAGAGCGCCAGACUGAAGAUCUGGAGGUCCUGUGUUCGAUCCACAGAAUUCGCACCA"


class StrictRequest(BaseModel):
    """A request: what is not known is refused, so that a misspelt option is not silently lost."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Named(StrictRequest):
    """A sequence with a name."""

    sequence: str = Field(description="RNA or DNA; case, T for U and blanks do not matter.")
    id: str | None = Field(default=None, description="Its name, which the answer repeats.")


Text = str | Named


class Usage(BaseModel):
    """What was computed."""

    sequences: int = Field(description="Sequences that were computed.")
    nucleotides: int = Field(description="Their nucleotides.")


class ErrorBody(BaseModel):
    """What is wrong."""

    code: str = Field(description="A word for programs.", examples=["invalid_sequence"])
    message: str = Field(description="A sentence for people.")
    type: str = Field(default="invalid_request_error", description="As OpenAI's clients expect it.")
    index: int | None = Field(default=None, description="Which sequence of the request, from 0 on.")
    position: int | None = Field(default=None, description="Which character of it, from 0 on.")


class ErrorResponse(BaseModel):
    """Answer to a request that cannot be answered."""

    error: ErrorBody


class EmbedRequest(StrictRequest):
    """Sequences to embed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"sequences": [_TRNA, {"id": "hairpin", "sequence": "GGGAAACCC"}]},
                {"sequences": ["GGGAAACCC"], "pooling": "none", "encoding": "base64"},
            ]
        }
    )
    sequences: list[Text] = Field(min_length=1, description="One or many sequences.")
    pooling: Literal["mean", "max", "first", "none"] = Field(
        default="mean",
        description="How base embeddings become one of the sequence; `none`: they do not.",
    )
    layer: int | None = Field(
        default=None, description="Layer, 0 for what goes into the first one; the last by default."
    )
    encoding: Literal["float", "base64"] = Field(
        default="float", description="Numbers, or base64 of little-endian float32, row by row."
    )


class EmbedItem(BaseModel):
    """One sequence's embedding, or what is wrong with it."""

    index: int
    id: str | None = None
    length: int | None = Field(default=None, description="Nucleotides.")
    embedding: list[float] | list[list[float]] | str | None = Field(
        default=None, description="Of the sequence, or of each of its bases; text if base64."
    )
    error: ErrorBody | None = None


class EmbedResponse(BaseModel):
    """Embeddings, in the order of the request."""

    model: str
    dimensions: int = Field(description="Numbers of an embedding.", examples=[120])
    results: list[EmbedItem]
    usage: Usage


class FillRequest(StrictRequest):
    """Sequences with hidden nucleotides."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sequences": ["GCGGAUUUAGCUCA<mask>UUGGGAGAGC"]}]}
    )
    sequences: list[Text] = Field(
        min_length=1, description="Hidden nucleotides are written as `<mask>`."
    )
    top_k: Annotated[int, Field(ge=1, le=28, description="How many answers for each.")] = 4


class HiddenNucleotide(BaseModel):
    """What the model expects at a hidden place."""

    position: int = Field(description="From 0 on.")
    probabilities: dict[str, float] = Field(
        description="The likeliest tokens, in falling order.", examples=[{"G": 0.71, "A": 0.19}]
    )


class FillItem(BaseModel):
    """One sequence's hidden nucleotides, or what is wrong with it."""

    index: int
    id: str | None = None
    filled: str | None = Field(
        default=None, description="The sequence with the likeliest nucleotides."
    )
    hidden: list[HiddenNucleotide] | None = None
    error: ErrorBody | None = None


class FillResponse(BaseModel):
    """Answers, in the order of the request."""

    model: str
    results: list[FillItem]
    usage: Usage


class Gaps(StrictRequest):
    """Gap penalties, in match scores."""

    open: Annotated[float, Field(ge=0, le=100, strict=False)] = 1.0
    extend: Annotated[float, Field(ge=0, le=100, strict=False)] = 0.1


class AlignRequest(StrictRequest):
    """A sequence to align with others."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"query": "GGGAAACCC", "targets": ["GGCUAACGCC", "GGGCAAACCC"]}]
        }
    )
    query: Text
    targets: list[Text] = Field(min_length=1, description="One or many sequences.")
    mode: Literal["global", "semiglobal", "local"] = "global"
    gaps: Gaps = Field(default_factory=Gaps)
    centred: bool = Field(
        default=False,
        description="Subtract each sequence's mean embedding: for telling families apart.",
    )
    similarity: bool = Field(
        default=False, description="Match scores of all pairs of bases, too: for one target."
    )


class AlignItem(BaseModel):
    """An alignment, or what is wrong with the target."""

    index: int
    id: str | None = None
    score: float | None = Field(
        default=None, description="Cosines of aligned bases less gap penalties."
    )
    cigar: str | None = Field(
        default=None,
        description="M aligned, I a base of the query alone, D of the target.",
        examples=["9M"],
    )
    query_aligned: str | None = Field(default=None, description="The query with gaps.")
    target_aligned: str | None = Field(default=None, description="The target with gaps.")
    column_scores: list[float | None] | None = Field(
        default=None, description="Match score of each column; none where there is a gap."
    )
    identities: int | None = None
    aligned_length: int | None = Field(default=None, description="Columns, gaps included.")
    query_start: int | None = Field(default=None, description="From 1 on; 0 if nothing is aligned.")
    query_end: int | None = None
    target_start: int | None = None
    target_end: int | None = None
    similarity: list[list[float]] | None = Field(
        default=None, description="Match scores, a row a base of the query."
    )
    error: ErrorBody | None = None


class AlignResponse(BaseModel):
    """Alignments, in the order of the targets."""

    model: str
    results: list[AlignItem]
    usage: Usage


class SearchRequest(StrictRequest):
    """Sequences whose relatives are looked for in the database."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sequences": [_TRNA]}]})
    sequences: list[Text] = Field(min_length=1, description="One or many queries.")
    mode: Literal["global", "semiglobal", "local"] = "global"
    candidates: Annotated[
        int,
        Field(ge=1, le=10_000, description="Targets that each prefilter hands on to be aligned."),
    ] = 500
    max_hits: Annotated[int, Field(ge=1, le=1000, description="Hits of a query at most.")] = 100
    max_evalue: Annotated[float, Field(gt=0, strict=False)] | None = Field(
        default=10.0, description="Of a hit at most; null for hits of any."
    )
    targets: bool = Field(default=False, description="The targets' sequences, too.")


class SearchHit(BaseModel):
    """A relative: the columns of `riboray search`."""

    target: str = Field(description="Its name in the database.")
    score: float = Field(description="Cosines of aligned bases less gap penalties.")
    normalised_score: float = Field(description="The score over the shorter one's length.")
    z_score: float | None = Field(default=None, description="Against scores of shuffled targets.")
    evalue: float | None = Field(
        default=None, description="Unrelated targets that are expected to score as high."
    )
    identity: float = Field(description="Identical over all aligned pairs of bases.")
    aligned_length: int
    mismatches: int
    gap_opens: int
    query_start: int = Field(description="From 1 on; 0 if nothing is aligned.")
    query_end: int
    target_start: int
    target_end: int
    cigar: str = Field(description="M aligned, I a base of the query alone, D of the target.")
    sequence: str | None = Field(default=None, description="Of the target, if asked for.")


class SearchItem(BaseModel):
    """One query's relatives, best first, or what is wrong with it."""

    index: int
    id: str | None = None
    hits: list[SearchHit] | None = None
    error: ErrorBody | None = None


class SearchResponse(BaseModel):
    """Relatives, in the order of the queries."""

    model: str
    database: int = Field(description="Sequences of the database.")
    results: list[SearchItem]
    usage: Usage


class MapRequest(StrictRequest):
    """Sequences to put on the map."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sequences": [_TRNA]}]})
    sequences: list[Text] = Field(min_length=1)


class MapItem(BaseModel):
    """Where a sequence lies, or what is wrong with it."""

    index: int
    id: str | None = None
    x: float | None = None
    y: float | None = None
    error: ErrorBody | None = None


class MapPoint(BaseModel):
    """Where a sequence of a known family lies."""

    family: str
    id: str
    x: float
    y: float


class MapResponse(BaseModel):
    """A map: two directions in which embeddings of known families lie apart."""

    model: str
    reference: list[MapPoint]
    results: list[MapItem]
    usage: Usage


class Health(BaseModel):
    """Answer of ``/healthz`` and ``/readyz``."""

    status: str = Field(description="`ok` once the checkpoint is loaded.", examples=["ok"])


class TaskInfo(BaseModel):
    """What is predicted under a name."""

    task: str = Field(description="Its name, the last part of the path.")
    model: str = Field(description="Name of the model.")
    sha256: str = Field(description="Of its weights.")
    level: str = Field(description="Of what: `sequence`, `nucleotide` or `contact`.")
    problem: str = Field(description="`regression`, `binary`, `multiclass` or `multilabel`.")
    labels: list[str] = Field(description="What is measured, no and yes, or the classes.")


class Info(BaseModel):
    """Answer of ``/v1/info``."""

    riboray_version: str = Field(description="Version of riboray that serves.")
    model: str = Field(description="Name of the model that is served.", examples=["rnabert"])
    checkpoint: dict[str, Any] = Field(
        description="Origin, sha256, size, vocabulary and conventions of the checkpoint."
    )
    limits: dict[str, int] = Field(description="How much a request may ask for.")
    database: int | None = Field(
        default=None, description="Sequences that can be searched, if there are any."
    )
    tasks: list[TaskInfo] = Field(
        default_factory=list, description="What `/v1/predict/{task}` answers."
    )


class TokenizeRequest(StrictRequest):
    """Sequences to turn into tokens."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"sequences": ["ACGU"]}]})
    sequences: list[Text] = Field(min_length=1)


class TokenizeItem(BaseModel):
    """One sequence's tokens, or what is wrong with it."""

    index: int
    id: str | None = None
    ids: list[int] | None = None
    tokens: list[str] | None = None
    error: ErrorBody | None = None


class TokenizeResponse(BaseModel):
    """Tokens, in the order of the request."""

    model: str
    vocabulary: str
    results: list[TokenizeItem]
