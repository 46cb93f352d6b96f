"""One run on several processes, as torchrun starts them; `tracin.TracIn` works within each and knows nothing of it."""

from tracin.distributed.ranks import RankLost, Ranks, ranks_of_environment, working_together
from tracin.distributed.shards import ShardedTopK, Shards, TrainingSet, parted_by_head, sharded_top_k, share_out

__all__ = [
    "RankLost", "Ranks", "ShardedTopK", "Shards", "TrainingSet", "parted_by_head", "ranks_of_environment",
    "share_out", "sharded_top_k", "working_together",
]  # fmt: skip
