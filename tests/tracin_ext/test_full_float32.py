"""TF32 is off inside, and the caller's choice is back after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tracin_ext.full_float32 import full_float32


def precisions() -> tuple[str, str]:
    cudnn: Any = torch.backends.cudnn
    return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision


@pytest.fixture(params=["ieee", "tf32"])
def chosen(request: pytest.FixtureRequest) -> Iterator[str]:
    """A caller's choice for products; as it was, afterwards."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = request.param
    yield request.param
    torch.backends.cuda.matmul.fp32_precision = before


def test_inside_and_after(chosen: str) -> None:
    before = precisions()
    assert before[0] == chosen
    with pytest.raises(KeyError), full_float32():
        assert precisions() == ("ieee", "ieee")
        raise KeyError
    assert precisions() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
def test_products_and_convolutions_on_cuda_are_exact_inside() -> None:
    a, b = torch.randn(2, 256, 256, dtype=torch.float64)
    image, kernel = torch.randn(4, 8, 16, 16, dtype=torch.float64), torch.randn(8, 8, 3, 3, dtype=torch.float64)
    with full_float32():
        product = a.float().cuda() @ b.float().cuda()
        convolved = torch.conv2d(image.float().cuda(), kernel.float().cuda())
    assert (product.cpu() - a @ b).norm() <= 1e-6 * (a @ b).norm()
    expected = torch.conv2d(image, kernel)
    assert (convolved.cpu() - expected).norm() <= 1e-6 * expected.norm()
