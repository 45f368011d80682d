"""The service without its server: what is asked of a loaded checkpoint, and what it answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riboray import __version__
from riboray.alignment import GapPenalties
from riboray.alphabet import encode
from riboray.embedding.embedder import Embedder
from riboray.model.checkpoint import describe, load_checkpoint
from riboray.serving.answers import (
    aligned_item,
    as_base64,
    embed_item,
    error_body,
    name_of,
    named_texts,
    usage_of,
)
from riboray.serving.arrow import arrow_stream
from riboray.serving.batcher import Batcher
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.inputs import (
    Checked,
    Entry,
    Limits,
    check_entries,
    check_masked,
    check_numbers,
)
from riboray.serving.landscape import Landscape, landmarks
from riboray.serving.metrics import Metrics
from riboray.serving.schemas import (
    AlignItem,
    AlignRequest,
    AlignResponse,
    EmbedItem,
    EmbedRequest,
    EmbedResponse,
    FillItem,
    FillRequest,
    FillResponse,
    Health,
    HiddenNucleotide,
    Info,
    MapItem,
    MapPoint,
    MapRequest,
    MapResponse,
    OpenAIEmbedding,
    OpenAIRequest,
    OpenAIResponse,
    TokenizeItem,
    TokenizeRequest,
    TokenizeResponse,
)
from riboray.serving.work import AlignJob, EmbedJob, FillJob, Job, Worker

__all__ = ["PATHS", "Service"]

#: Batches in a row without a single result after which the model counts as broken.
_BROKEN = 3

_log = logging.getLogger(__name__)

#: Sequences of a streamed answer that are computed together.
_STREAMED = 64


PATHS = (
    *("/v1/embed", "/v1/fill-mask", "/v1/align", "/v1/map", "/v1/tokenize", "/v1/embeddings"),
    *("/v1/info", "/healthz", "/readyz", "/metrics", "/"),
)
"""Paths whose requests are counted apart."""


def _cost(job: Job) -> int:
    return job.cost


class Service:
    """A loaded checkpoint and the questions it answers.

    Parameters
    ----------
    checkpoint : str
        Anything `load_checkpoint` reads.
    limits : Limits, optional
        How much a request may ask for.
    capacity : int, optional
        Nucleotides that may wait; more are turned away.
    device : str, optional
        Torch device.

    Raises
    ------
    CheckpointError
        If it cannot be read; the service then never starts.
    """

    def __init__(
        self,
        checkpoint: str,
        limits: Limits | None = None,
        capacity: int = 4_000_000,
        device: str = "cpu",
    ) -> None:
        loaded = load_checkpoint(checkpoint)
        # Where the file lies on the server is nobody's business outside.
        self.model, self.name = loaded.model, Path(loaded.name).name
        self.limits = limits or Limits()
        embedder = Embedder(loaded.model, device=device)
        self.tokens, self.config = embedder.config.tokens, embedder.config
        self.worker, self.metrics = Worker(embedder), Metrics(PATHS)
        run = self.metrics.timed(self.worker.run, _cost)
        self._batcher = Batcher[Job, Any](run, _cost, embedder.token_budget, capacity)
        self.metrics.watch(lambda: self._batcher.waiting)
        self._landscape: Landscape | None = None
        self._mapping = asyncio.Lock()
        self._info = Info(
            riboray_version=__version__,
            model=self.name,
            checkpoint={k: v for k, v in describe(loaded).items() if k != "path"},
            limits=vars(self.limits),
        )

    def health(self) -> Health:
        """Tell that the checkpoint is loaded, and that the model answers.

        Raises
        ------
        ServiceError
            ``NOT_READY`` if the service is ending, or every batch fails.
        """
        if self._batcher.closed:
            raise ServiceError(ErrorCode.NOT_READY, "the service is ending")
        if self.is_broken:
            raise ServiceError(ErrorCode.NOT_READY, "the model fails; the log says why")
        return Health(status="ok")

    @property
    def is_broken(self) -> bool:
        """Whether batch after batch fails."""
        return self._batcher.failures >= _BROKEN

    def info(self) -> Info:
        """Describe the checkpoint."""
        return self._info

    async def close(self) -> None:
        """Finish what is being computed; who waits is told."""
        await self._batcher.close()

    async def _compute(self, jobs: Sequence[Job | ServiceError], first: int = 0) -> list[Any]:
        """Compute the jobs; what was no job, and what fails, is an error in its place.

        ``first`` is the number of the first one in its request.
        """
        wanted = [job for job in jobs if not isinstance(job, ServiceError)]
        found = iter(await self._batcher.submit(wanted))
        results = []
        for index, job in enumerate(jobs, start=first):
            result = job if isinstance(job, ServiceError) else next(found)
            if isinstance(result, Exception) and not isinstance(result, ServiceError):
                _log.error("a job failed", exc_info=result)
                result = ServiceError(ErrorCode.INTERNAL, "it could not be computed")
            if isinstance(result, ServiceError) and result.index is None:
                result.index = index
            results.append(result)
        return results

    def _check_embed(self, request: EmbedRequest) -> tuple[Checked, list[Job | ServiceError]]:
        last = self.config.num_hidden_layers
        layer = last if request.layer is None else request.layer
        if not 0 <= layer <= last:
            raise ServiceError(ErrorCode.MALFORMED, f"layer must lie between 0 and {last}")
        checked = check_entries(named_texts(request.sequences), self.tokens, self.limits)
        pooling = None if request.pooling == "none" else request.pooling
        rows = usage_of(checked)
        count = rows.nucleotides if pooling is None else rows.sequences
        check_numbers(count * self.config.hidden_size, self.limits)
        return checked, [
            EmbedJob(entry.sequence, layer, pooling) if isinstance(entry, Entry) else entry
            for entry in checked
        ]

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Embed sequences.

        Raises
        ------
        ServiceError
            If the request cannot be answered; what is wrong with a sequence is in its item.
        """
        checked, jobs = self._check_embed(request)
        found = await self._compute(jobs)

        def answer() -> EmbedResponse:
            return EmbedResponse(
                model=self.name,
                dimensions=self.config.hidden_size,
                results=[embed_item(request, k, checked[k], found[k]) for k in range(len(found))],
                usage=usage_of(checked),
            )

        return await asyncio.to_thread(answer)

    async def embed_arrow(self, request: EmbedRequest) -> bytes:
        """Embed sequences, as an Arrow stream; errors as for `embed`."""
        checked, jobs = self._check_embed(request)
        found = await self._compute(jobs)
        ids = [name_of(text) for text in request.sequences]
        size, per_base = self.config.hidden_size, request.pooling == "none"
        return await asyncio.to_thread(arrow_stream, ids, checked, found, size, per_base)

    def embed_items(self, request: EmbedRequest) -> AsyncIterator[EmbedItem]:
        """Embed sequences, some at a time, and give each as it is ready; errors as for `embed`."""
        checked, jobs = self._check_embed(request)

        async def items() -> AsyncIterator[EmbedItem]:
            for start in range(0, len(jobs), _STREAMED):
                found = await self._compute(jobs[start : start + _STREAMED], start)
                for index, result in enumerate(found, start=start):
                    yield embed_item(request, index, checked[index], result)

        return items()

    async def openai_embeddings(self, request: OpenAIRequest) -> OpenAIResponse:
        """Embed sequences as OpenAI's clients ask for it: all of them, or none."""
        if request.model not in (self.name, "riboray"):
            raise ServiceError(
                ErrorCode.NOT_FOUND, f"the model served is {self.name}, not {request.model[:100]}"
            )
        size = self.config.hidden_size
        if request.dimensions not in (None, size):
            raise ServiceError(ErrorCode.MALFORMED, f"dimensions of this model are {size}")
        texts = [request.input] if isinstance(request.input, str) else request.input
        checked = check_entries([(None, text) for text in texts], self.tokens, self.limits)
        for entry in checked:
            if isinstance(entry, ServiceError):
                raise entry
        last = self.config.num_hidden_layers
        jobs = [EmbedJob(e.sequence, last) for e in checked if isinstance(e, Entry)]
        data = []
        for index, found in enumerate(await self._compute(jobs)):
            if isinstance(found, ServiceError):
                raise found
            shown = as_base64(found) if request.encoding_format == "base64" else found.tolist()
            data.append(OpenAIEmbedding(index=index, embedding=shown))
        total = usage_of(checked).nucleotides
        usage = {"prompt_tokens": total, "total_tokens": total}
        return OpenAIResponse(data=data, model=self.name, usage=usage)

    async def fill_mask(self, request: FillRequest) -> FillResponse:
        """Say what the model expects at hidden places; errors as for `embed`."""
        if self.model.lm_head is None:
            raise ServiceError(ErrorCode.MALFORMED, "the model has no language-model head")
        longest = self.config.max_sequence_length
        named = named_texts(request.sequences)
        checked = check_masked(named, self.tokens, self.limits, longest)
        places = sum(len(entry.hidden) for entry in checked if isinstance(entry, Entry))
        check_numbers(places * request.top_k, self.limits)
        jobs = [e if not isinstance(e, Entry) else FillJob(e.sequence, e.hidden) for e in checked]
        items = []
        for index, (entry, found) in enumerate(
            zip(checked, await self._compute(jobs), strict=True)
        ):
            if isinstance(found, ServiceError) or not isinstance(entry, Entry):
                items.append(
                    FillItem(
                        index=index, id=name_of(request.sequences[index]), error=error_body(found)
                    )
                )
                continue
            items.append(self._filled(index, entry, found, request.top_k))
        return FillResponse(model=self.name, results=items, usage=usage_of(checked))

    def _filled(
        self, index: int, entry: Entry, shares: NDArray[np.float32], top_k: int
    ) -> FillItem:
        names, text, hidden = self.tokens.tokens, list(entry.sequence), []
        letters = [k for k, name in enumerate(names) if name in "ACGU"]
        for place, row in zip(entry.hidden, shares, strict=True):
            order = np.argsort(-row, kind="stable")[:top_k]
            told = {names[k]: float(row[k]) for k in order.tolist()}
            hidden.append(HiddenNucleotide(position=place, probabilities=told))
            text[place] = names[letters[int(row[letters].argmax())]]
        return FillItem(index=index, id=entry.id, filled="".join(text), hidden=hidden)

    async def align(self, request: AlignRequest) -> AlignResponse:
        """Align a sequence with others; errors as for `embed`, and if the query is wrong."""
        (query,) = check_entries(named_texts([request.query]), self.tokens, self.limits)
        if isinstance(query, ServiceError):
            query.index = None
            query.message = f"the query: {query.message}"
            raise query
        if request.similarity and len(request.targets) > 1:
            raise ServiceError(ErrorCode.MALFORMED, "similarity is for one target")
        checked = check_entries(named_texts(request.targets), self.tokens, self.limits)
        gaps = GapPenalties(request.gaps.open, request.gaps.extend)
        jobs: list[Job | ServiceError] = []
        for index, entry in enumerate(checked):
            if isinstance(entry, ServiceError):
                jobs.append(entry)
                continue
            cells = len(query.sequence) * len(entry.sequence)
            most = self.limits.similarities if request.similarity else self.limits.cells
            if cells > most:
                reason = f"{cells:,} pairs of bases are more than the {most:,} allowed"
                jobs.append(ServiceError(ErrorCode.TOO_LARGE, reason, index=index))
                continue
            jobs.append(
                AlignJob(
                    *(query.sequence, entry.sequence, request.mode, gaps),
                    *(request.centred, request.similarity),
                )
            )
        columns = sum(
            len(query.sequence) + len(e.sequence) for e in checked if isinstance(e, Entry)
        )
        check_numbers(columns, self.limits)
        items = []
        for index, (entry, found) in enumerate(
            zip(checked, await self._compute(jobs), strict=True)
        ):
            if isinstance(found, ServiceError) or not isinstance(entry, Entry):
                name = name_of(request.targets[index])
                items.append(AlignItem(index=index, id=name, error=error_body(found)))
            else:
                items.append(aligned_item(index, entry, found))
        return AlignResponse(model=self.name, results=items, usage=usage_of([query, *checked]))

    async def map(self, request: MapRequest) -> MapResponse:
        """Put sequences on the map of known families; errors as for `embed`.

        The map is made when it is first asked for, which takes some seconds.
        """
        last = self.config.num_hidden_layers
        checked = check_entries(named_texts(request.sequences), self.tokens, self.limits)
        landscape = await self._known_families()
        jobs = [e if not isinstance(e, Entry) else EmbedJob(e.sequence, last) for e in checked]
        items = []
        for index, found in enumerate(await self._compute(jobs)):
            item = MapItem(index=index, id=name_of(request.sequences[index]))
            if isinstance(found, ServiceError):
                item.error = error_body(found)
            else:
                item.x, item.y = landscape.place(found[None])[0].tolist()
            items.append(item)
        places = zip(landmarks(), landscape.places.tolist(), strict=True)
        reference = [MapPoint(family=m.family, id=m.id, x=x, y=y) for m, (x, y) in places]
        return MapResponse(
            model=self.name, reference=reference, results=items, usage=usage_of(checked)
        )

    async def _known_families(self) -> Landscape:
        """Return the map, made once."""
        async with self._mapping:
            if self._landscape is None:
                marks = await asyncio.to_thread(landmarks)
                last = self.config.num_hidden_layers
                rows = await self._compute([EmbedJob(mark.sequence, last) for mark in marks])
                for row in rows:
                    if isinstance(row, ServiceError):
                        raise row
                self._landscape = await asyncio.to_thread(Landscape, np.stack(rows))
            return self._landscape

    def tokenize(self, request: TokenizeRequest) -> TokenizeResponse:
        """Turn sequences into the model's tokens, special ones included."""
        checked = check_entries(named_texts(request.sequences), self.tokens, self.limits)
        items = []
        for index, entry in enumerate(checked):
            if isinstance(entry, ServiceError):
                items.append(
                    TokenizeItem(
                        index=index, id=name_of(request.sequences[index]), error=error_body(entry)
                    )
                )
                continue
            special = {"add_bos": self.config.add_bos, "add_eos": self.config.add_eos}
            ids = encode([entry.sequence], self.tokens, **special)[0][0].tolist()
            names = [self.tokens.tokens[k] for k in ids]
            items.append(TokenizeItem(index=index, id=entry.id, ids=ids, tokens=names))
        return TokenizeResponse(model=self.name, vocabulary=self.tokens.name, results=items)
