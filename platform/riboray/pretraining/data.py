"""From a corpus directory to streams and validation batches: what is trained on, what is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

from riboray.batching import plan_batches
from riboray.corpus.families import choose_held_out
from riboray.corpus.records import is_validation
from riboray.corpus.trained import TrainedSequences
from riboray.errors import ConfigError, CorpusError
from riboray.pretraining.config import PretrainConfig
from riboray.pretraining.curriculum import STREAMS, Phase
from riboray.pretraining.groups import GroupRule
from riboray.pretraining.masking import sequence_keys
from riboray.pretraining.pairs import aligned_pairs
from riboray.pretraining.sampling import PairSampling, family_shares, pair_sampling
from riboray.pretraining.start import sequences_behind
from riboray.pretraining.streams import (
    PairBatch,
    StreamSpec,
    TokenBatch,
    find_windows,
    mlm_batch,
    pair_batch,
    structure_batch,
    structured_members,
)
from riboray.pretraining.validation import Validation

__all__ = ["TrainingData", "prepare_data"]

Hashes = NDArray[np.uint64]

#: Pattern number of validation masks; training uses 0 to ``masking.patterns - 1``.
_VALIDATION_PATTERN = 1 << 20


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on and is measured on.

    Attributes
    ----------
    specs : dict of str to StreamSpec
        Streams by what they hold; see `curriculum.STREAMS`.
    validation : Validation
        Held-out batches.
    held_out_families : tuple of str
        Families whose alignments training never sees.
    counts : dict of str to int
        Sequences, pairs and families on either side.
    trained : TrainedSequences or None
        Hashes of what is trained on, and was before; None if that is not known.
    """

    specs: dict[str, StreamSpec]
    validation: Validation
    held_out_families: tuple[str, ...]
    counts: dict[str, int]
    trained: TrainedSequences | None


def prepare_data(corpus: Path, config: PretrainConfig, streams: int) -> TrainingData:
    """Split a corpus directory into streams and validation batches.

    Alignments are split by family. A sequence that belongs to a held-out family, whether a pair of
    it was drawn or not, is kept out of masked language modelling too, so that nothing of these
    families is trained on (exact matches; a homologue in another family is not recognised). What
    the corpus itself sets apart for validation takes the place of a share chosen here.

    Raises
    ------
    ConfigError
        If a family to hold out does not exist, nothing is left to train on, or the checkpoint to
        start from has another shape.
    """
    kinds = ("sequences", "pairs", "members", "validation_sequences", "validation_pairs")
    files = {kind: sorted(corpus.glob(f"{kind}-*.parquet")) for kind in kinds}
    if files["pairs"] and not files["members"]:
        raise CorpusError(corpus, "lists no members of its families; ingest it anew")
    split = _split_pairs(files, config)
    mlm_validation, mlm_counts, masked = _split_sequences(files, split.hashes, config)
    ss_validation, ss_counts = _split_members(files, split.held_out, config)
    counts = {**split.counts, **mlm_counts, **ss_counts}
    if not counts["mlm_training_sequences"]:
        raise ConfigError("validation leaves no sequence to train on; lower validation_share")
    common = {
        "streams": streams,
        "seed": config.seed,
        "model": config.model,
        "masking": config.masking,
        "held_out_hashes": tuple(split.hashes.tolist()),
        "held_out_families": split.held_out,
        "validation_share": 0.0 if files["validation_sequences"] else config.validation_share,
    }
    pair_options = {
        "mask_pairs": config.mask_pairs,
        "crop_pairs": config.crop_pairs,
        "jitter": config.pair_jitter,
        **(split.sampling[0]._asdict() if split.sampling else {}),
    }
    budgets = {"mlm": config.tokens_per_batch, "sal": config.pair_tokens_per_batch}
    tables = {"mlm": "sequences", "sal": "pairs", "ss": "members"}
    if config.group_size:
        tables["sal"] = "members"
    there = {"mlm": True, "sal": counts["sal_training_pairs"], "ss": counts["ss_training_members"]}
    specs = {
        name: StreamSpec(
            objective=name,  # type: ignore[arg-type]
            windows=find_windows(files[tables[name]]),
            token_budget=budgets.get(name, config.tokens_per_batch),
            **(pair_options if name == "sal" else {}),
            **common,  # type: ignore[arg-type]
        )
        for name in dict.fromkeys(STREAMS[objective] for objective in config.objectives)
        if there[name]
    }
    if "sal" in specs and any(found != split.sampling[0] for found in split.sampling):
        phases = tuple(replace(specs["sal"], **found._asdict()) for found in split.sampling)
        specs["sal"] = replace(specs["sal"], phases=phases)
    for number, phase in enumerate(config.curriculum, start=1):
        if not specs.keys() & {STREAMS[name] for name in config.learnt_in(phase)}:
            raise ConfigError(
                f"phase {number} of the curriculum ({phase.objectives}) has no data: it needs "
                "--alignments with two families or more, and for ss one with SS_cons"
            )
    validation = Validation(mlm_validation, split.validation, ss_validation)
    own = TrainedSequences.of(
        masked if "mlm" in specs else masked[:0],
        split.trained if {"sal", "ss"} & specs.keys() else masked[:0],
    )
    trained: TrainedSequences | None = own
    if config.init is not None:
        before = sequences_behind(config.init, config.model)
        trained = None if before is None else own.and_those_of(before)
    return TrainingData(specs, validation, split.held_out, counts, trained)


class _Sampling(NamedTuple):
    """How often pairs are seen, or how groups are made in their place."""

    sampling: PairSampling | None
    groups: GroupRule | None


class _PairSplit(NamedTuple):
    """Reference alignments, divided by family."""

    held_out: tuple[str, ...]
    hashes: Hashes
    """Sequences of the held-out families."""
    trained: Hashes
    """Sequences of the others."""
    validation: list[PairBatch]
    sampling: tuple[_Sampling, ...]
    """What is seen how often, in each phase of the curriculum."""
    counts: dict[str, int]


def _split_pairs(files: dict[str, list[Path]], config: PretrainConfig) -> _PairSplit:
    if not files["pairs"]:
        names = ("families", "pairs")
        counts = {f"sal_{s}_{n}": 0 for s in ("training", "validation") for n in names}
        none = np.empty(0, dtype=np.uint64)
        return _PairSplit((), none, none, [], (), counts)
    table = ds.dataset(files["pairs"]).to_table(columns=["family", "identity"])
    members = ds.dataset(files["members"]).to_table(columns=["family", "name", "sha256_64"])
    names_of = dict(zip(*(members[c].to_pylist() for c in ("name", "family")), strict=True))
    source = files["validation_pairs"] or files["pairs"]
    if files["validation_pairs"]:
        if config.validation_families:
            raise ConfigError("the corpus sets families apart: leave out --validation-families")
        apart = ds.dataset(source).to_table(columns=["family"])["family"]
        held_out = sorted(pc.unique(apart).to_pylist())
        families = sorted({*pc.unique(table["family"]).to_pylist(), *held_out})
    else:
        families = sorted(pc.unique(table["family"]).to_pylist())
        held_out = _choose_families(families, names_of, config)
    names = pa.array(held_out, pa.string())
    trained = table.filter(pc.invert(pc.is_in(table["family"], value_set=names)))
    # Files are in hash order, so the first pairs are a random sample of all.
    rows = ds.dataset(source).scanner(
        columns=["family", "aligned_a", "aligned_b"], filter=pc.field("family").isin(names)
    )
    pairs = aligned_pairs(rows.head(config.validation_pairs))
    is_member = pc.is_in(members["family"], value_set=names)
    counts = {
        "sal_training_families": len(families) - len(held_out),
        "sal_validation_families": len(held_out),
        "sal_training_pairs": trained.num_rows,
        "sal_validation_pairs": len(pairs),
    }
    known = sorted(set(families) - set(held_out))
    lengths = np.array([max(len(pair.a), len(pair.b)) for pair in pairs], dtype=np.int64)
    plans = plan_batches(2 * lengths, 4 * config.pair_tokens_per_batch)
    return _PairSplit(
        held_out=tuple(held_out),
        hashes=np.unique(members.filter(is_member)["sha256_64"].to_numpy()),
        trained=members.filter(pc.invert(is_member))["sha256_64"].to_numpy(),
        validation=[pair_batch([pairs[i] for i in rows], config.model) for rows in plans],
        sampling=tuple(
            _sampling(files, trained, _focus(known, names_of, phase, config), config)
            for phase in config.curriculum
        ),
        counts=counts,
    )


def _choose_families(
    families: list[str], names_of: dict[str, str], config: PretrainConfig
) -> list[str]:
    if config.validation_families:
        missing = "validation families without a usable pair in the alignments"
        wanted = _accessions(config.validation_families, names_of, families, missing)
        held_out = sorted(set(wanted))
    else:
        held_out = choose_held_out(families, config.validation_family_share, config.seed)
    if len(held_out) == len(families):
        raise ConfigError("every family is held out for validation: none is left to train on")
    return held_out


def _accessions(
    wanted: list[str], names_of: dict[str, str], known: list[str], missing: str
) -> list[str]:
    """Return accessions of families given by accession or name; those not known are an error."""
    chosen = [(name, names_of.get(name, name)) for name in wanted]
    unknown = sorted({name for name, family in chosen if family not in known})
    if unknown:
        raise ConfigError(f"{missing}: {', '.join(unknown)}")
    return sorted(family for _, family in chosen)


def _focus(
    known: list[str], names_of: dict[str, str], phase: Phase, config: PretrainConfig
) -> tuple[list[str], float]:
    """Families that are seen more often in a phase, by accession, and their share."""
    own, share = phase.focus_families, phase.focus_share
    wanted = config.focus_families if own is None else own
    chosen = _accessions(wanted, names_of, known, "focus families without a pair to train on")
    return chosen, config.focus_share if share is None else share


def _sampling(
    files: dict[str, list[Path]],
    trained: pa.Table,
    focus: tuple[list[str], float],
    config: PretrainConfig,
) -> _Sampling:
    """How often pairs are seen, or how groups are made."""
    families, temperature = trained["family"], config.family_temperature
    if not config.group_size:
        identity, power = trained["identity"].to_numpy(), config.identity_power
        return _Sampling(pair_sampling(families, identity, temperature, power, *focus), None)
    rule = GroupRule(
        size=config.group_size,
        resample=config.resample,
        files=tuple(str(path) for path in files["members"]),
        shares=family_shares(families, temperature, *focus),
    )
    return _Sampling(None, rule)


def _split_members(
    files: dict[str, list[Path]], held_out: tuple[str, ...], config: PretrainConfig
) -> tuple[list[TokenBatch], dict[str, int]]:
    """Divide the members with a structure, if structures are learnt, by family."""
    if "ss" not in config.objectives or not files["members"]:
        return [], {"ss_training_members": 0, "ss_validation_members": 0}
    columns = ["family", "sha256_64", "sequence", "ss_classes"]
    table = ds.dataset(files["members"]).to_table(columns=columns)
    table = structured_members(table, config.model.max_sequence_length)
    apart = pc.is_in(table["family"], value_set=pa.array(held_out, pa.string()))
    kept = table.filter(apart)
    rows = np.argsort(kept["sha256_64"].to_numpy(), kind="stable")[: config.validation_sequences]
    kept = kept.take(pa.array(np.sort(rows)))
    counts = {
        "ss_training_members": table.num_rows - int(pc.sum(apart).as_py() or 0),
        "ss_validation_members": kept.num_rows,
    }
    sequences, classes = (kept[name].to_pylist() for name in ("sequence", "ss_classes"))
    lengths = np.array([len(s) for s in sequences], dtype=np.int64)
    batches = [
        structure_batch([sequences[i] for i in rows], [classes[i] for i in rows], config.model)
        for rows in plan_batches(lengths, 4 * config.tokens_per_batch)
    ]
    return batches, counts


def _split_sequences(
    files: dict[str, list[Path]],
    held_out_hashes: Hashes,
    config: PretrainConfig,
) -> tuple[list[TokenBatch], dict[str, int], Hashes]:
    """Return the held-out batches, counts, and the hashes of the sequences to train on."""
    if not files["sequences"]:
        raise CorpusError("corpus", "holds no sequences")
    dataset = ds.dataset(files["sequences"])
    hashes = dataset.to_table(columns=["sha256_64"])["sha256_64"].to_numpy()
    apart = bool(files["validation_sequences"])
    validation = is_validation(hashes, 0.0 if apart else config.validation_share)
    excluded = np.isin(hashes, held_out_hashes)
    trained = hashes[~validation & ~excluded]
    counts = {
        "mlm_training_sequences": len(trained),
        "mlm_excluded_sequences": int((~validation & excluded).sum()),
    }
    if apart:
        dataset = ds.dataset(files["validation_sequences"])
        hashes = dataset.to_table(columns=["sha256_64"])["sha256_64"].to_numpy()
        validation = np.ones(len(hashes), dtype=np.bool_)
    # Those with the lowest hashes are a random sample, whatever the order of the rows.
    rows = np.flatnonzero(validation)
    rows = np.sort(rows[np.argsort(hashes[rows], kind="stable")[: config.validation_sequences]])
    counts["mlm_validation_sequences"] = len(rows)
    if not len(rows):
        return [], counts, trained
    table = dataset.take(pa.array(rows), columns=["id", "sequence", "length"])
    sequences, keys = table["sequence"].to_pylist(), sequence_keys(table["id"].to_pylist())
    batches = []
    for chosen in plan_batches(table["length"].to_numpy(), 4 * config.tokens_per_batch):
        texts, pattern = [sequences[i] for i in chosen], _VALIDATION_PATTERN
        batch = mlm_batch(texts, keys[chosen], pattern, config.seed, config.model, config.masking)
        batches.append(batch)
    return batches, counts, trained
