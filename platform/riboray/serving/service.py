"""The service without its server: what is asked of a loaded checkpoint, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from riboray.alignment import GapPenalties
from riboray.alphabet import encode
from riboray.model.prediction import PLACES
from riboray.serving.answers import (
    aligned_item,
    as_base64,
    embedded_item,
    filled_item,
    found_item,
    item_of,
    items_of,
    name_of,
    named_texts,
    usage_of,
    with_targets,
)
from riboray.serving.arrow import arrow_stream
from riboray.serving.core import Core
from riboray.serving.errors import ErrorCode, ServiceError
from riboray.serving.inputs import (
    Checked,
    Entry,
    check_entries,
    check_masked,
    check_numbers,
)
from riboray.serving.landscape import Landscape, landmarks
from riboray.serving.openai import OpenAIEmbedding, OpenAIRequest, OpenAIResponse
from riboray.serving.predictions import (
    PredictItem,
    PredictRequest,
    PredictResponse,
    numbers_of,
    predicted_item,
    threshold_of,
)
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
    MapItem,
    MapPoint,
    MapRequest,
    MapResponse,
    SearchHit,
    SearchItem,
    SearchRequest,
    SearchResponse,
    TokenizeItem,
    TokenizeRequest,
    TokenizeResponse,
)
from riboray.serving.work import AlignJob, EmbedJob, FillJob, Job, PredictJob, SearchJob

__all__ = ["Service"]

#: Sequences of a streamed answer that are computed together.
_STREAMED = 64


class Service(Core):
    """A loaded checkpoint and the questions it answers: parameters and errors as of `Core`."""

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
            make = partial(embedded_item, request)
            return EmbedResponse(
                model=self.name,
                dimensions=self.config.hidden_size,
                results=items_of(EmbedItem, request.sequences, checked, found, make),
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
        make, texts = partial(embedded_item, request), request.sequences

        async def items() -> AsyncIterator[EmbedItem]:
            for start in range(0, len(jobs), _STREAMED):
                found = await self._compute(jobs[start : start + _STREAMED], start)
                for index, result in enumerate(found, start=start):
                    yield item_of(EmbedItem, index, texts[index], checked[index], result, make)

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
        found = await self._compute(jobs)
        make = partial(filled_item, self.tokens, request.top_k)
        items = items_of(FillItem, request.sequences, checked, found, make)
        return FillResponse(model=self.name, results=items, usage=usage_of(checked))

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
        columns = sum(
            len(query.sequence) + len(e.sequence) for e in checked if isinstance(e, Entry)
        )
        check_numbers(columns, self.limits)
        bases = None
        if len(checked) > 1:  # once, whatever batches its targets fall into
            last = self.config.num_hidden_layers
            (bases,) = await self._compute([EmbedJob(query.sequence, last, None)])
            if isinstance(bases, ServiceError):
                bases.index = None
                raise bases
        jobs = [
            entry
            if isinstance(entry, ServiceError)
            else self._align_job(request, query.sequence, bases, index, entry.sequence)
            for index, entry in enumerate(checked)
        ]
        found = await self._compute(jobs)
        items = items_of(AlignItem, request.targets, checked, found, aligned_item)
        return AlignResponse(model=self.name, results=items, usage=usage_of([query, *checked]))

    def _align_job(
        self,
        request: AlignRequest,
        query: str,
        bases: NDArray[np.float32] | None,
        index: int,
        target: str,
    ) -> AlignJob | ServiceError:
        """Ask for an alignment, unless it is too large."""
        cells = len(query) * len(target)
        most = self.limits.similarities if request.similarity else self.limits.cells
        if cells > most:
            reason = f"{cells:,} pairs of bases are more than the {most:,} allowed"
            return ServiceError(ErrorCode.TOO_LARGE, reason, index=index)
        gaps = GapPenalties(request.gaps.open, request.gaps.extend)
        rule = (request.mode, gaps, request.centred, request.similarity)
        return AlignJob(query, target, *rule, bases)

    async def search(self, request: SearchRequest) -> SearchResponse:
        """Look for relatives of sequences in the database; errors as for `embed`."""
        index = self.worker.index
        if index is None:
            raise ServiceError(ErrorCode.NOT_FOUND, "there is no database: serve with --db")
        checked = check_entries(named_texts(request.sequences), self.tokens, self.limits)
        check_numbers(len(checked) * request.max_hits * len(SearchHit.model_fields), self.limits)
        count = min(request.candidates, len(index.database))
        asked = (request.mode, count, request.max_hits, request.max_evalue)
        jobs: list[Job | ServiceError] = []
        for number, entry in enumerate(checked):
            if isinstance(entry, ServiceError):
                jobs.append(entry)
                continue
            job = SearchJob(entry.sequence, index.mean_length, *asked)
            if job.cells > (most := self.limits.search_cells):
                reason = f"about {job.cells:,} pairs of bases are more than the {most:,} allowed"
                jobs.append(ServiceError(ErrorCode.TOO_LARGE, reason, index=number))
            else:
                jobs.append(job)
        found = await self._compute(jobs)

        def answer() -> SearchResponse:
            tables = [with_targets(index, t) if request.targets else t for t in found]
            return SearchResponse(
                model=self.name,
                database=len(index.database),
                results=items_of(SearchItem, request.sequences, checked, tables, found_item),
                usage=usage_of(checked),
            )

        return await asyncio.to_thread(answer)

    async def predict(self, name: str, request: PredictRequest) -> PredictResponse:
        """Ask a task's model about sequences; errors as for `embed`."""
        if name not in self.tasks:
            raise ServiceError(ErrorCode.NOT_FOUND, "there is no such task; /v1/info names all")
        task = self.tasks[name]
        head = task.head
        checked = check_entries(named_texts(request.sequences), task.config.tokens, self.limits)
        fold, jobs, numbers = head.level == "contact" and head.problem == "binary", [], 0
        places = PLACES[head.level]
        rule = (fold, threshold_of(head, request), request.canonical)
        for number, entry in enumerate(checked):
            job: Job | ServiceError
            if isinstance(entry, ServiceError):
                job = entry
            elif places == 2 and (pairs := len(entry.sequence) ** 2) > self.limits.similarities:
                reason = f"{pairs:,} pairs of bases are more than the "
                reason += f"{self.limits.similarities:,} allowed"
                job = ServiceError(ErrorCode.TOO_LARGE, reason, index=number)
            else:
                outputs = len(entry.sequence) ** places * head.outputs
                numbers += outputs
                job = PredictJob(entry.sequence, name, outputs, *rule)
            jobs.append(job)
        check_numbers(numbers, self.limits)
        found = await self._compute(jobs)

        def answer() -> PredictResponse:
            check_numbers(numbers_of(head, request, found), self.limits)
            make = partial(predicted_item, head, request)
            return PredictResponse(
                task=name,
                model=task.info.model,
                level=head.level,
                problem=head.problem,
                outputs=list(head.labels[1:] if head.problem == "binary" else head.labels),
                results=items_of(PredictItem, request.sequences, checked, found, make),
                usage=usage_of(checked),
            )

        return await asyncio.to_thread(answer)

    async def map(self, request: MapRequest) -> MapResponse:
        """Put sequences on the map of known families; errors as for `embed`.

        The map is made when it is first asked for, which takes some seconds.
        """
        last = self.config.num_hidden_layers
        checked = check_entries(named_texts(request.sequences), self.tokens, self.limits)
        landscape = await self._known_families()
        jobs = [e if not isinstance(e, Entry) else EmbedJob(e.sequence, last) for e in checked]

        def placed(index: int, entry: Entry, row: NDArray[np.float32]) -> MapItem:
            x, y = landscape.place(row[None])[0].tolist()
            return MapItem(index=index, id=entry.id, x=x, y=y)

        found = await self._compute(jobs)
        items = items_of(MapItem, request.sequences, checked, found, placed)
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
        special = {"add_bos": self.config.add_bos, "add_eos": self.config.add_eos}

        def tokenized(index: int, entry: Entry, _: object) -> TokenizeItem:
            ids = encode([entry.sequence], self.tokens, **special)[0][0].tolist()
            names = [self.tokens.tokens[k] for k in ids]
            return TokenizeItem(index=index, id=entry.id, ids=ids, tokens=names)

        items = items_of(TokenizeItem, request.sequences, checked, checked, tokenized)
        return TokenizeResponse(model=self.name, vocabulary=self.tokens.name, results=items)
