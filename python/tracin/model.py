"""ConvE: one canonical module for every implementation whose weights `tracin.load_checkpoint` reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tracin.errors import InputError

STACK_AXES = {"height": 2, "width": 3}
CONFIG_KEY = "tracin"  # of the config in the metadata of a state dict


class ConvE(nn.Module):
    """ConvE (Dettmers et al., AAAI 2018), https://arxiv.org/abs/1707.01476.

        x = stack(E[h], R[r]);  v = relu(bn1(conv(bn0(x))));  z = relu(bn2(fc(v)));  score = z . E[t] + bias[t]

    Each embedding of `embedding_dim` values is viewed as planes of `embedding_height` x `embedding_width`, as many as
    it fills; the head's planes and the relation's are stacked in height or side by side in width.
    The first word of every parameter name is the name of its layer (see `tracin.TracIn`, argument `layers`).
    A state dict carries the sizes below in its metadata (where PyTorch keeps the versions of modules), so that
    `tracin.load_checkpoint` reads it alone; its keys are the parameters' and buffers'.

    Args:
        num_entities: N, rows of the entity table.
        num_relations: R, rows of the relation table (inverse relations included).
        embedding_dim: D.
        embedding_height: rows of ONE embedding's plane, in pixels.
        embedding_width: columns of one embedding's plane; D must be a multiple of height * width.
        output_channels: C, filters of the convolution.
        kernel_height, kernel_width: size of a filter, in pixels.
        stack: "height" (image of 2 * height rows) or "width" (2 * width columns).
        bn0, bn1, bn2: whether the batch norm of the image, the feature maps, the projection exists.
        batch_norm_affine: whether batch norms have weight and bias.
        conv_bias, entity_bias: whether the convolution, the score, has a bias.
        relation_step: row of relation r is `relation_step * r`; 2 for PyKEEN's tables with inverse triples.
        input_dropout, feature_dropout, hidden_dropout: probabilities, used in training only.
        fc_bias: whether the fully connected layer has a bias.

    Raises:
        InputError: if the sizes do not fit together.

    Example:
        >>> model = ConvE(135, 46, 32, embedding_height=8, embedding_width=4).eval()
        >>> model(torch.tensor([[0, 1, 2]])).shape
        torch.Size([1])
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        embedding_dim: int = 200,
        *,
        embedding_height: int = 20,
        embedding_width: int = 10,
        output_channels: int = 32,
        kernel_height: int = 3,
        kernel_width: int = 3,
        stack: str = "height",
        bn0: bool = True,
        bn1: bool = True,
        bn2: bool = True,
        batch_norm_affine: bool = True,
        conv_bias: bool = True,
        entity_bias: bool = True,
        relation_step: int = 1,
        input_dropout: float = 0.2,
        feature_dropout: float = 0.2,
        hidden_dropout: float = 0.3,
        fc_bias: bool = True,
    ) -> None:
        super().__init__()
        if stack not in STACK_AXES:
            raise InputError(f"stack is {stack!r}; expected 'height' or 'width'")
        plane = embedding_height * embedding_width
        if embedding_height < 1 or embedding_width < 1 or embedding_dim % plane:
            raise InputError(
                f"embedding_dim {embedding_dim} is not a multiple of embedding_height x embedding_width = "
                f"{embedding_height} x {embedding_width}"
            )
        self.config: dict[str, Any] = dict(
            num_entities=num_entities,
            num_relations=num_relations,
            embedding_dim=embedding_dim,
            embedding_height=embedding_height,
            embedding_width=embedding_width,
            output_channels=output_channels,
            kernel_height=kernel_height,
            kernel_width=kernel_width,
            stack=stack,
            bn0=bn0,
            bn1=bn1,
            bn2=bn2,
            batch_norm_affine=batch_norm_affine,
            conv_bias=conv_bias,
            entity_bias=entity_bias,
            relation_step=relation_step,
            input_dropout=input_dropout,
            feature_dropout=feature_dropout,
            hidden_dropout=hidden_dropout,
            fc_bias=fc_bias,
        )
        self.stack = stack
        self.relation_step = relation_step
        self.plane = (embedding_dim // plane, embedding_height, embedding_width)  # C_in, rows, columns of one embedding
        rows = embedding_height * (2 if stack == "height" else 1)
        columns = embedding_width * (2 if stack == "width" else 1)
        self.image = (self.plane[0], rows, columns)
        out_rows, out_columns = rows - kernel_height + 1, columns - kernel_width + 1
        if out_rows < 1 or out_columns < 1:
            raise InputError(f"a {kernel_height} x {kernel_width} kernel does not fit a {rows} x {columns} image")

        def norm(kind: type[nn.Module], size: int, present: bool) -> nn.Module | None:
            return kind(size, affine=batch_norm_affine) if present else None

        # Given weights, an Embedding draws none: that is slow for large tables, and on the meta device for any.
        self.entity = nn.Embedding(num_entities, embedding_dim, _weight=torch.empty(num_entities, embedding_dim))
        self.relation = nn.Embedding(num_relations, embedding_dim, _weight=torch.empty(num_relations, embedding_dim))
        self.bn0 = norm(nn.BatchNorm2d, self.plane[0], bn0)
        self.conv = nn.Conv2d(self.plane[0], output_channels, (kernel_height, kernel_width), bias=conv_bias)
        self.bn1 = norm(nn.BatchNorm2d, output_channels, bn1)
        self.fc = nn.Linear(output_channels * out_rows * out_columns, embedding_dim, bias=fc_bias)
        self.bn2 = norm(nn.BatchNorm1d, embedding_dim, bn2)
        self.bias = nn.Parameter(torch.zeros(num_entities)) if entity_bias else None
        if not self.entity.weight.is_meta:
            nn.init.xavier_normal_(self.entity.weight)
            nn.init.xavier_normal_(self.relation.weight)
        self.register_state_dict_post_hook(_keep_config)  # type: ignore[no-untyped-call]

    @property
    def num_entities(self) -> int:
        """Entity ids of triples are 0..num_entities - 1."""
        return self.entity.num_embeddings

    @property
    def num_relations(self) -> int:
        """Relation ids of triples are 0..num_relations - 1; the table has `relation_step` rows for each."""
        return self.relation.num_embeddings // self.relation_step

    def hidden(
        self,
        heads: Tensor,  # [B]
        relations: Tensor,  # [B]
    ) -> Tensor:  # [B, D]
        """z [B, D], the activation that is compared with the tails' embeddings."""
        return self.hidden_of(self.entity(heads), self.relation(self.relation_step * relations))

    def hidden_of(
        self,
        heads: Tensor,  # [B, D]
        relations: Tensor,  # [B, D]
    ) -> Tensor:  # [B, D]
        """z [B, D] of embeddings, which need not be those of the tables."""
        planes = (len(heads), *self.plane)
        x = torch.cat([heads.view(planes), relations.view(planes)], dim=STACK_AXES[self.stack])
        config = self.config
        x = F.dropout(x if self.bn0 is None else self.bn0(x), config["input_dropout"], self.training)
        x = self.conv(x)
        x = F.dropout2d(F.relu(x if self.bn1 is None else self.bn1(x)), config["feature_dropout"], self.training)
        x = F.dropout(self.fc(x.flatten(1)), config["hidden_dropout"], self.training)
        return F.relu(x if self.bn2 is None else self.bn2(x))

    def forward(
        self,
        triples: Tensor,  # [B, 3] head, relation, tail
    ) -> Tensor:  # [B]
        """Scores (logits) [B] of triples [B, 3]."""
        heads, relations, tails = triples.unbind(1)
        score: Tensor = (self.hidden(heads, relations) * self.entity(tails)).sum(1)
        return score if self.bias is None else score + self.bias[tails]

    def score_tails(
        self,
        heads: Tensor,  # [B]
        relations: Tensor,  # [B]
    ) -> Tensor:  # [B, N]
        """Scores (logits) [B, N] of every entity as the tail of (head, relation)."""
        scores = self.hidden(heads, relations) @ self.entity.weight.T
        return scores if self.bias is None else scores + self.bias


def relation_rows(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
) -> Tensor:  # [n, 3] int64
    """(h, row of r in the relation table, t)."""
    heads, relations, tails = triples.unbind(1)
    return torch.stack([heads, model.relation_step * relations, tails], dim=1)


def inverse_rows(
    model: ConvE,
    triples: Tensor,  # [n, 3] int64
) -> Tensor:  # [n, 3] int64
    """(t, row of r's inverse, h): row 2r + 1 in a PyKEEN table, else r + R."""
    heads, relations, tails = triples.unbind(1)
    inverse = 2 * relations + 1 if model.relation_step == 2 else relations + model.relation.num_embeddings // 2
    return torch.stack([tails, inverse, heads], dim=1)


def _keep_config(model: ConvE, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """Beside the module's version, where loading looks at nothing else."""
    metadata[CONFIG_KEY] = dict(model.config)
