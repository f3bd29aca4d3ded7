"""The Triton kernels: interpreted, compiled for a GPU that is not there, and run where one is."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from netir.kernels.bank import FilterBank
from netir.kernels.expand import expand
from netir.kernels.plan import Plan
from tests.group_layers import MIXED
from tests.interpreter import ROOT, interpret
from tests.triton_checks import EXACT, Case, check_bank, check_layer


def load(path: str) -> ModuleType:
    """A file of the repository that is in no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


aot = load("bench/aot.py")
VARIANTS = list(aot.variants())


def test_interpreted() -> None:
    interpret("tests/interpreted.py")


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name for variant in VARIANTS])
def test_compiled_for_sm_90(variant: Any) -> None:
    used = aot.usage(variant.compile())
    assert list(used.faults(variant)) == []
    assert used.count("EXIT") > 0  # the disassembly was read


def test_faults_are_found() -> None:
    variant = VARIANTS[0]
    bad = aot.Usage(255, 280, 300_000, {"STL.64": 2, "LDL": 1, "LDG.E.CONSTANT": 3})
    assert list(bad.faults(variant)) == [
        "280 bytes of stack", "300000 bytes of shared memory", "LDL (a spill)", "STL (a spill)",
        "no LDG.128",
    ]  # fmt: skip
    good = aot.Usage(40, 0, 0, {"LDG.E.128.CONSTANT": 3})
    assert list(good.faults(variant)) == []


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
PLANS = [Plan(MIXED), Plan(MIXED, 5), Plan(("D4",), 1, True), Plan(("C8", "C4", "C1"))]


@pytest.mark.gpu
@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fields", [(1, 3), (16, 16), (32, 64)], ids=str)
def test_layers_on_a_gpu(plan: Plan, dtype: torch.dtype, fields: tuple[int, int]) -> None:
    check_layer(Case(plan, *fields, dtype, dtype, strided=True), "cuda", EXACT)
    if dtype not in (torch.float32, torch.float64):
        check_layer(Case(plan, *fields, torch.float32, dtype), "cuda", EXACT)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_banks_on_a_gpu(dtype: torch.dtype) -> None:
    for inner in (16, 3):
        check_bank([Case(plan, 8, inner, dtype, dtype) for plan in PLANS], "cuda", EXACT)


def filters(whole: bool) -> list[torch.Tensor]:
    """Filters and gradients of two layers, from one seed."""
    torch.manual_seed(0)
    plans = [Plan(MIXED), Plan(MIXED, 5)]
    made = [
        [torch.randn(plan.shape(n, 16, 16), device="cuda", requires_grad=True) for n in plan.groups]
        for plan in plans
    ]
    mixes = [torch.rand(len(MIXED), device="cuda", requires_grad=True) for _ in plans]
    args = zip(made, plans, mixes, strict=True)
    dense = FilterBank(plans)(made, mixes) if whole else [expand(*each) for each in args]
    loss = sum((w * torch.randn_like(w)).sum() for w in dense)
    leaves = [*(p for own in made for p in own), *mixes]
    return [*dense, *torch.autograd.grad(loss, leaves)]


@pytest.mark.gpu
@pytest.mark.parametrize("whole", [False, True])
def test_two_runs_give_the_same_bits(whole: bool) -> None:
    for a, b in zip(filters(whole), filters(whole), strict=True):
        assert torch.equal(a, b)


@pytest.mark.gpu
def test_a_filter_can_be_captured_in_a_graph() -> None:
    plan = Plan(MIXED)
    made = [torch.randn(plan.shape(n, 16, 16), device="cuda") for n in MIXED]
    mix, tables = torch.rand(len(MIXED), device="cuda"), plan.tables("cuda")
    expand(made, plan, mix, tables)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dense = expand(made, plan, mix, tables)
    mix.mul_(2)
    graph.replay()
    assert torch.equal(dense, expand(made, plan, mix, tables))
