"""Embedding in this process, for what is done before Ray and its workers would have started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from riboray.corpus.ingestion import Runner, SerialRunner
from riboray.crew.size import Size
from riboray.embedding.parts import Job, Note, maker_of
from riboray.embedding.planning import Part
from riboray.embedding.reading import Source, read_parts, wanted_units

__all__ = ["LocalPool"]


class LocalPool:
    """Reads inputs and embeds them in this process, as `EmbeddingPool` does in others."""

    use_gpu, size = False, Size(1, 1)

    def __init__(self) -> None:
        self.runner: Runner = SerialRunner()

    def embed(
        self, sources: Sequence[Source], parts: Sequence[Part], job: Job
    ) -> Iterator[tuple[int, Note]]:
        """Embed parts in their order; yield each one's number and note."""
        maker = maker_of(job)
        places = {(part.source, part.part): part for part in parts}
        for source, unit, inside in wanted_units(sources, places):
            for number, block in read_parts(source, unit, job.given.columns, inside):
                part = places[source.index, number]
                yield part.number, maker.make(part, block)
