"""One run on several processes, as torchrun starts them."""

from tracin.distributed.ranks import RankLost, Ranks, ranks_of_environment, working_together

__all__ = ["RankLost", "Ranks", "ranks_of_environment", "working_together"]
