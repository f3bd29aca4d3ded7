"""Compile every Triton kernel for an H100 or H200 without one, and read the machine code.

`python -m bench.aot` needs Triton and nothing else, so that `make aot TRITON=3.6.0` can ask the
same of another version in an environment of its own. For every kernel, type and tile: it compiles,
keeps nothing on the stack, spills nothing, fits into shared memory, and loads by 128 bits where
it should. It exits with 1 if any does not.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

ROOT = Path(__file__).parents[1]
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
TARGET = GPUTarget("cuda", 90, 32)
SHARED = 232_448  # bytes that a program may have
ORDERS = (1, 2, 4, 2, 4, 8)  # C1, C2, C4, D1, D2, D4


@dataclass(frozen=True)
class Variant:
    """A kernel with the types and constants of one launch; `code` is what it must contain."""

    name: str
    kernel: Any
    signature: dict[str, Any]
    constants: dict[str, Any]
    code: tuple[str, ...] = ()
    aligned: tuple[str, ...] = field(default=())

    def compile(self) -> Any:
        spread = dict.fromkeys(self.constants, "constexpr") | self.signature
        signature = {n: spread[n] for n in self.kernel.arg_names}
        attributes: dict[tuple[int, ...], list[list[Any]]] = {}
        for name in self.aligned:
            at = self.kernel.arg_names.index(name)
            kind = signature[name]
            many = range(len(kind)) if isinstance(kind, tuple) else None
            places = [(at,)] if many is None else [(at, i) for i in many]
            attributes |= {place: [["tt.divisibility", 16]] for place in places}
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=dict(self.constants),
                           attrs=attributes)  # fmt: skip
        options = {"num_warps": 4, "enable_fp_fusion": True}
        return triton.compile(source, target=TARGET, options=options)


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel takes."""

    registers: int
    stack: int
    shared: int
    opcodes: dict[str, int]

    def faults(self, variant: Variant) -> Iterator[str]:
        if self.stack:
            yield f"{self.stack} bytes of stack"
        if self.shared > SHARED:
            yield f"{self.shared} bytes of shared memory"
        yield from (f"{op} (a spill)" for op in ("LDL", "STL") if self.count(op))
        yield from (f"no {op}" for op in variant.code if not self.count(op))

    def count(self, opcode: str) -> int:
        """How many instructions are this one, or have all of its parts: `LDG.128`."""
        first, *parts = opcode.split(".")
        return sum(
            n for name, n in self.opcodes.items()
            if name.split(".")[0] == first and set(parts) <= set(name.split("."))
        )  # fmt: skip


def usage(compiled: Any) -> Usage:
    """Ask the disassembler that comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        used = _tool("cuobjdump", "--dump-resource-usage", str(cubin))
        code = _tool("nvdisasm", "--print-code", str(cubin))
    registers, stack = (int(re.search(rf"{key}:(\d+)", used)[1]) for key in ("REG", "STACK"))  # type: ignore[table]
    opcodes: dict[str, int] = {}
    for name in re.findall(r"^\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", code, re.M):
        opcodes[name] = opcodes.get(name, 0) + 1
    return Usage(registers, stack, compiled.metadata.shared, opcodes)


def _tool(name: str, *args: str) -> str:
    done = subprocess.run([TOOLS / name, *args], capture_output=True, text=True, check=True)
    return done.stdout


def kernels(name: str) -> ModuleType:
    """A file of kernels, by its path: netir need not be installed."""
    path = ROOT / f"kernels/{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


SUMS = {"fp32": tl.float32, "bf16": tl.float32, "fp16": tl.float32, "fp64": tl.float64}


def variants() -> Iterator[Variant]:
    """Every kernel × type × tile: parameters' and filter's type, places × fields in."""
    made = kernels("expand_kernels")
    for own, out in (("fp32", "bf16"), ("fp32", "fp32"), ("bf16", "bf16"), ("fp64", "fp64")):
        yield from _layer(made, own, out, 64, 16)
    yield from _layer(made, "fp32", "fp16", 16, 64)
    yield from _layer(made, "fp32", "bf16", 256, 4)
    yield from _layer(made, "fp32", "bf16", 64, 16, taps=4)
    yield from _bank(made, "fp32", "bf16", 64, 16)
    yield from _bank(made, "fp32", "fp32", 16, 64)
    yield from _bank(made, "fp32", "bf16", 16, 64, taps=4)
    pointers = {"parts": "*fp32", "starts": "*i64", "out": "*fp32"}
    yield Variant("sum_parts fp32", made.sum_parts, pointers, {"BLOCK": 1024}, (), tuple(pointers))
    yield from _grams(kernels("gram_kernels").gram)


def _layer(
    made: ModuleType, own: str, out: str, size: int, inner: int, taps: int = 1
) -> Iterator[Variant]:
    groups = len(ORDERS)
    label = f"{own}→{out} {size}×{inner} taps {taps}"
    fixed = {"ELEMENTS": 8, "TAPS": taps, "SB": size, "CB": inner, "ACC": SUMS[own], "UP": False}
    numbers = {"fields": "i32", "inner": "i32", "size": "i32"}
    factors = {"coefficients": f"*{own}", "table": "*i32",
               "weights": "*i32" if taps == 1 else "*fp32"}  # fmt: skip
    many = (f"*{own}",) * groups
    wide = ("LDG.128",)
    yield Variant(
        f"expand {label}", made.expand,
        {"parameters": many, **factors, "out": f"*{out}", **numbers}, fixed,
        wide, ("parameters", "coefficients", "table", "weights", "out", "inner"),
    )  # fmt: skip
    for wanted in (True, False) if taps == 1 and out == "bf16" else (True,):
        yield Variant(
            f"expand_backward {label}{'' if wanted else ' products only'}", made.expand_backward,
            {"parameters": many, "found": many, **factors, "gradient": f"*{out}",
             "products": f"*{'fp64' if own == 'fp64' else 'fp32'}", **numbers},
            {**fixed, "COSETS": tuple(8 // order for order in ORDERS), "WANTED": wanted},
            wide, ("parameters", "found", "coefficients", "gradient", "table", "weights", "inner"),
        )  # fmt: skip


def _bank(
    made: ModuleType, own: str, out: str, size: int, inner: int, taps: int = 1
) -> Iterator[Variant]:
    label = f"{own}→{out} {size}×{inner} taps {taps}"
    fixed = {"TAPS": taps, "SB": size, "CB": inner, "ALIGN": 4, "ACC": SUMS[own], "UP": False}
    tables = {"parameter": f"*{own}", "table": "*i32",
              "weights": "*i32" if taps == 1 else "*fp32", "offsets": "*i64", "layers": "*i64",
              "work": "*i64", "coefficients": f"*{own}"}  # fmt: skip
    wide = ("LDG.128",)
    yield Variant(f"expand_bank {label}", made.expand_bank, {**tables, "out": f"*{out}"}, fixed,
                  wide, (*tables, "out"))  # fmt: skip
    yield Variant(
        f"expand_bank_backward {label}", made.expand_bank_backward,
        {**tables, "groups": "*i64", "gradient": f"*{out}", "found": f"*{own}",
         "products": "*fp32"}, {**fixed, "WANTED": True},
        wide, (*tables, "groups", "gradient", "found"),
    )  # fmt: skip


def _grams(kernel: Any) -> Iterator[Variant]:
    """Rows or channels that are contiguous, in numbers that divide by 16 or not."""
    numbers = {"count": "i32", "rows": "i32", "columns": "i32", "by_sample": "i64",
               "by_row": "i64", "by_column": "i64", "span": "i32"}  # fmt: skip
    for own, wide in (("fp32", True), ("fp64", True), ("bf16", False), ("fp16", False)):
        for one, other in (("by_column", "by_row"), ("by_row", "by_column")):
            for round_numbers in (True, False):
                sizes = ("count", "rows", "columns", other, "by_sample") if round_numbers else ()
                signature = {"x": f"*{own}", "tiles": "*i32", "out": "*fp64", **numbers}
                del signature[one]
                yield Variant(
                    f"gram {own} {one} 1 {'any' if not sizes else '16s'}",
                    kernel, signature,
                    {"TILE": 64, "ROWS": 16, "FLUSH": 512, "WIDE": wide, "UP": False, one: 1},
                    ("DMMA" if wide else "HGMMA", *(("LDGSTS.128",) if sizes else ())),
                    ("x", "out", "span", *sizes),
                )  # fmt: skip


def main() -> None:
    wrong = 0
    print(f"Triton {triton.__version__}, sm_{TARGET.arch}")
    for variant in variants():
        used = usage(variant.compile())
        faults = list(used.faults(variant))
        wrong += bool(faults)
        loads = f"{used.count('LDG.128')} of {used.count('LDG')} loads of 128 bits"
        verdict = f"{used.shared} B shared: {', '.join(faults) or 'good'}"
        print(f"{variant.name:<58} {used.registers:>4} registers, {loads}, {verdict}", flush=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
