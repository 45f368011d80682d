"""How often each reference alignment is trained on: families by temperature, pairs by identity."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["PairSampling", "family_shares", "pair_sampling"]


def _identity_weights(identity: NDArray[np.floating], power: float) -> NDArray[np.float64]:
    """Weigh pairs: ``(1 - identity)`` to a power, kept off 0 so that no pair is lost."""
    distance = 1.0 - np.asarray(identity, dtype=np.float64)
    return np.asarray(np.maximum(distance, 0.01) ** power)


@dataclass(frozen=True)
class PairSampling:
    """Expected copies of a pair in an epoch: its family's scale times its own weight.

    Attributes
    ----------
    scales : dict of str to float
        One number a family.
    power : float
        Power of ``1 - identity``.
    """

    scales: dict[str, float]
    power: float

    def draw(self, table: pa.Table, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draw rows of a table of pairs; a row can come several times or not at all.

        The number of copies is the expected one rounded up or down at random, so that its mean
        is exact; the total over a corpus is that of the pairs, on average.
        """
        families = list(self.scales)
        index = pc.index_in(table["family"], value_set=pa.array(families, pa.string()))
        scale = np.array([*self.scales.values(), 0.0])[pc.fill_null(index, -1).to_numpy()]
        weights = _identity_weights(table["identity"].to_numpy(), self.power)
        copies = np.floor(scale * weights + generator.uniform(size=table.num_rows))
        return np.repeat(np.arange(table.num_rows), copies.astype(np.int64))


def family_shares(
    families: pa.ChunkedArray, temperature: float, focus: Sequence[str] = (), share: float = 0.0
) -> dict[str, float]:
    """Work out how often each family is seen.

    Parameters
    ----------
    families : ChunkedArray of string, length n
        Family of every training pair.
    temperature : float
        A family with n pairs is seen in proportion to n to the power 1/temperature.
    focus, share : sequence of str, float
        Families that have this share together, one named twice twice as much as others. Those
        without a pair do not count.

    Returns
    -------
    dict of str to float
        Shares, which add up to 1.
    """
    names, counts = np.unique(families.to_numpy(), return_counts=True)
    shares = counts ** (1.0 / temperature)
    shares /= shares.sum()
    named = Counter(focus)
    parts = np.array([named[name] for name in names.tolist()], dtype=np.float64)
    if parts.any():
        others = shares[parts == 0].sum()
        shares *= np.where(parts == 0, (1 - share) / others if others else 0.0, 0.0)
        shares += (share if others else 1.0) * parts / parts.sum()
    return dict(zip(names.tolist(), shares.tolist(), strict=True))


def pair_sampling(
    families: pa.ChunkedArray,
    identity: NDArray[np.floating],
    temperature: float,
    power: float,
    focus: Sequence[str] = (),
    share: float = 0.0,
) -> PairSampling | None:
    """Work out the scales for the pairs that are trained on.

    Parameters
    ----------
    families : ChunkedArray of string, length n
        Family of every training pair.
    identity : ndarray, shape=(n,)
        Identity of every training pair, 0 to 1.
    temperature : float
        A family with n pairs is seen in proportion to n to the power 1/temperature: 1 takes
        every pair as often, infinity every family.
    power : float
        Within a family, pairs are seen in proportion to ``1 - identity`` to this power; 0 takes
        all as often.
    focus, share : sequence of str, float
        See `family_shares`.

    Returns
    -------
    PairSampling or None
        None if every pair is to be seen once an epoch.
    """
    if temperature == 1 and power == 0 and not focus:
        return None
    shares = family_shares(families, temperature, focus, share)
    index = pc.index_in(families, value_set=pa.array(list(shares), pa.string())).to_numpy()
    weights = np.bincount(index, weights=_identity_weights(identity, power), minlength=len(shares))
    wanted = np.array(list(shares.values())) * len(families)
    return PairSampling(dict(zip(shares, (wanted / weights).tolist(), strict=True)), power)
