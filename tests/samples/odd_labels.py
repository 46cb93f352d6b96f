"""Labels that break what does not escape them, and a model whose entities bear them."""

from __future__ import annotations

import torch
from torch import Tensor

import tracin

LABELS = (
    "<script>document.title = 'broken in'</script>",
    "\"quotes\" and 'apostrophes' & an ampersand",
    "</style><img src=x onerror=\"document.title = 'broken in'\">",
    "من اليمين إلى اليسار",
    "\u202eturned round\u202c",
    "👩‍👩‍👧 a family, 🧪",
    "{{ 7 * 7 }} {% raw %}",
    "a | b ` c * d _ e [f](http://example.invalid)",
    "=SUM(A1:A9)",
    "x" * 300,
    "line\none\ttwo",
    "]]>--><!-- $\\alpha$",
)
RELATIONS = ("<b>r</b>", "من", '"r"')


def odd_model() -> tuple[tracin.Checkpoint, Tensor]:  # and [n, 3] training triples
    torch.manual_seed(2)
    model = tracin.ConvE(
        len(LABELS), len(RELATIONS), 8, embedding_height=4, embedding_width=2, output_channels=3, kernel_width=2
    ).eval()
    generator = torch.Generator().manual_seed(4)
    bounds = (len(LABELS), len(RELATIONS), len(LABELS))
    train = torch.stack([torch.randint(bound, (60,), generator=generator) for bound in bounds], 1)
    entities = {label: number for number, label in enumerate(LABELS)}
    relations = {label: number for number, label in enumerate(RELATIONS)}
    return tracin.Checkpoint(model, 1e-3, None, entities, relations), train
