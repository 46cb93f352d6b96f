"""Relations that say the same of the same entities, or the same the other way round; how far one foretells another."""

from __future__ import annotations

import polars as pl
from torch import Tensor

SURE = 0.8  # of a relation's pairs: from here on another relation counts as its twin


def relation_twins(
    triples: Tensor,  # [n, 3]
    relation: int | None = None,
) -> pl.DataFrame:  # a row for each two relations that share pairs
    """How many of a relation's pairs of entities another relation has too, as they are or turned round.

    Columns: relation, other, turned (whether the other has (tail, head)), shared (distinct pairs), pairs (of the
    relation), share (shared / pairs). A relation is its own twin only turned round, as symmetric ones are.

    Args:
        triples: duplicates do not count twice; self-loops do not count.
        relation: None: of all relations.

    Source: Akrami et al., SIGMOD 2020, https://arxiv.org/abs/2003.08001, who take shares from 0.8 on.

    Example:
        >>> relation_twins(torch.tensor([[0, 0, 1], [1, 1, 0]]))["share"].to_list()
        [1.0, 1.0]
    """
    heads, relations, tails = (column.numpy() for column in triples.unbind(1))
    pairs = pl.DataFrame({"relation": relations, "head": heads, "tail": tails}).unique()
    pairs = pairs.filter(pl.col("head") != pl.col("tail"))
    left = pairs if relation is None else pairs.filter(pl.col("relation") == relation)
    sizes = left.group_by("relation").len("pairs")
    right = pairs.rename({"relation": "other"})
    found = []
    for turned in (False, True):
        ends = ["tail", "head"] if turned else ["head", "tail"]
        joined = left.join(right, left_on=["head", "tail"], right_on=ends, how="inner")
        if not turned:
            joined = joined.filter(pl.col("relation") != pl.col("other"))
        counts = joined.group_by("relation", "other").len("shared")
        found.append(counts.with_columns(turned=pl.lit(turned)))
    shares = pl.concat(found).join(sizes, on="relation").with_columns(share=pl.col("shared") / pl.col("pairs"))
    order = ["relation", "other", "turned", "shared", "pairs", "share"]
    return shares.select(order).sort("relation", "share", "other", "turned", descending=[False, True, False, False])
