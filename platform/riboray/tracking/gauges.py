"""Which numbers of a record Prometheus gets, and under which names."""

from __future__ import annotations

from typing import NamedTuple

from riboray.tracking.records import Record, measurements

__all__ = ["PREFIX", "RECORD_TIME", "GaugeName", "gauge_names", "gauge_values"]

#: What the gauges of pre-training begin with. Ray puts ``ray_`` before it when it exports them.
PREFIX = "riboray_pretrain_"

#: Time of the newest record: training that stands still shows in it, for the other gauges keep
#: their values.
RECORD_TIME = "record_time_seconds"


class GaugeName(NamedTuple):
    """A gauge: the end of its name, the measurement it shows, and what that is."""

    name: str
    measurement: str
    description: str


_GAUGES = (
    GaugeName("step", "train/step", "Optimiser steps taken"),
    GaugeName("progress", "train/progress", "Share of the run that is done, 0 to 1"),
    GaugeName("elapsed_seconds", "train/elapsed_s", "Seconds of training, resumed time included"),
    GaugeName("phase", "train/phase", "Number of the phase of the curriculum"),
    GaugeName("workers", "train/workers", "Training workers"),
    GaugeName("learning_rate", "train/learning_rate", "Learning rate"),
    GaugeName("gradient_norm", "train/gradient_norm", "Norm of the gradient before clipping"),
    GaugeName("tokens_per_second", "train/tokens_per_s", "Tokens trained on per second"),
    GaugeName("pairs_per_second", "train/pairs_per_s", "Sequence pairs trained on per second"),
    GaugeName("padding_efficiency", "train/padding_efficiency", "Share of tokens not padding"),
    GaugeName("mfu", "train/mfu", "Model FLOPs utilisation: share of the device's peak"),
    GaugeName("data_wait_share", "train/data_wait", "Share of time waiting for batches"),
    GaugeName(
        "alignment_wait_share", "train/alignment_wait", "Share of time waiting for alignments"
    ),
    GaugeName("mlm_epochs", "train/mlm_epochs", "Passes over the sequences"),
    GaugeName("sal_epochs", "train/sal_epochs", "Passes over the pairs"),
    GaugeName("mlm_loss", "train/mlm_loss", "Masked-language-modelling loss, nats a target"),
    GaugeName("mlm_accuracy", "train/mlm_accuracy", "Share of masked nucleotides recovered"),
    GaugeName("sal_loss", "train/sal_loss", "Structural-alignment loss a pair"),
    GaugeName("ss_loss", "train/ss_loss", "Secondary-structure loss"),
    GaugeName("ss_accuracy", "train/ss_accuracy", "Share of structure classes recovered"),
    GaugeName("sfp_loss", "train/sfp_loss", "Family-contrast loss, nats a sequence"),
    GaugeName("sfp_accuracy", "train/sfp_accuracy", "Share nearest to one of their family"),
    GaugeName("validation_step", "validation/step", "Step of the newest measurement"),
    GaugeName("validation_mlm_loss", "validation/mlm_loss", "Held out: loss, nats a target"),
    GaugeName("validation_mlm_accuracy", "validation/mlm_accuracy", "Held out: share recovered"),
    GaugeName("validation_sal_loss", "validation/sal_loss", "Held-out families: loss a pair"),
    GaugeName("validation_sal_f1", "validation/sal_f1", "Held-out families: alignment F1"),
    GaugeName(
        "validation_sal_sensitivity", "validation/sal_sensitivity", "Held-out families: sensitivity"
    ),
    GaugeName(
        "validation_sal_ppv", "validation/sal_ppv", "Held-out families: positive predictive value"
    ),
    GaugeName("validation_ss_loss", "validation/ss_loss", "Held out: secondary-structure loss"),
    GaugeName(
        "validation_ss_accuracy", "validation/ss_accuracy", "Held out: structure classes recovered"
    ),
    GaugeName("validation_sfp_loss", "validation/sfp_loss", "Held-out families: contrast loss"),
    GaugeName(
        "validation_sfp_accuracy", "validation/sfp_accuracy", "Held-out families: nearest right"
    ),
)


def gauge_names() -> dict[str, str]:
    """Return the name of every gauge, without Ray's ``ray_``, with its description."""
    names = {PREFIX + gauge.name: gauge.description for gauge in _GAUGES}
    return names | {PREFIX + RECORD_TIME: "Unix time of the newest record of training"}


def gauge_values(record: Record, when: float) -> dict[str, float]:
    """Return what the gauges show after a record; empty for records of no interest.

    Parameters
    ----------
    record : dict
        Of training or validation.
    when : float
        Time of the record, in seconds since 1970.
    """
    kind = record["kind"]
    if kind not in ("train", "validation"):
        return {}
    found = measurements(record) | {f"{kind}/step": float(record["step"])}
    values = {PREFIX + g.name: found[g.measurement] for g in _GAUGES if g.measurement in found}
    return values | ({PREFIX + RECORD_TIME: when} if kind == "train" else {})
