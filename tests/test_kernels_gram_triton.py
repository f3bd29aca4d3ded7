"""The Triton Gram kernel: interpreted, and run where there is a GPU.

That it compiles for one that is not there is tested with the other kernels.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from netir.kernels.gram import gram
from netir.kernels.rank import effective_rank
from netir.kernels.window import GramWindow
from tests.gram_checks import Case, check
from tests.interpreter import interpret
from tests.spectra import spectra

KINDS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def test_interpreted() -> None:
    interpret("tests/interpreted_gram.py")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("layout", ["rows", "image", "cut"])
@pytest.mark.parametrize("shape", [(1, 5000, 130), (7, 49, 256), (16, 196, 64), (3, 33, 5)])
def test_on_a_gpu(shape: tuple[int, int, int], layout: str, kind: torch.dtype) -> None:
    check(Case(*shape, kind, layout), "cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16], ids=str)
def test_what_16_bit_tensor_cores_lose_is_within_its_bound(kind: torch.dtype) -> None:
    for rows in (torch.randn(20_000, 200).relu(), torch.rand(1, 200).expand(20_000, 200)):
        rows = rows.to("cuda", kind)
        found, exact = gram(rows, "float32"), gram(rows)
        off = float(torch.linalg.matrix_norm(found.matrix - exact.matrix, 2))
        assert off <= found.error + exact.error


@pytest.mark.gpu
@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["inertia", "eigenvalues"])
def test_no_count_of_hard_spectra_is_wrong(storage: torch.dtype, method: str) -> None:
    for spectrum in spectra(storage, 4):
        rows = spectrum.rows.cuda()
        found = effective_rank(rows, spectrum.epsilon, "float32", method=method)
        assert found.count <= spectrum.count <= found.count + found.ties, spectrum.family


@pytest.mark.gpu
def test_a_window_on_a_gpu() -> None:
    stream, window = torch.randn(3000, 40, device="cuda"), GramWindow(500)
    for rows in stream.split(70):
        window.add(rows)
    exact = gram(stream[-500:])
    off = float(torch.linalg.matrix_norm(window.gram.matrix - exact.matrix, 2))
    assert off <= window.gram.error + exact.error
    assert window.count(0.9) == effective_rank(stream[-500:], 0.9)
