"""`.netir` files: what is saved comes back, and nothing else does."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from netir import store
from netir.errors import NetirError
from netir.evaluate import run
from netir.ir import DTYPE_NAMES, Graph, Param, Ref, TensorType
from netir.store import load, save
from netir.text import parse_graph, print_graph
from tests.zoo.traced import traced

INPUT = {"x": TensorType(torch.float32, (2, 3))}
STORED = [d for d in DTYPE_NAMES if d != torch.complex128]


def holding(**tensors: Tensor) -> Graph:
    """A graph that holds tensors and gives back its input."""
    params = {name: Param(data, "const", False) for name, data in tensors.items()}
    return Graph("g", INPUT, {}, params, Ref("x"), {"x": Ref("x")})


def assert_same_file(before: Graph, after: Graph) -> None:
    assert print_graph(after) == print_graph(before)
    for name, param in before.params.items():
        found = after.params[name].data
        assert found.dtype == param.data.dtype
        raw, want = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found, param.data))
        assert torch.equal(raw, want), name


@pytest.mark.parametrize(
    "name",
    ["resnet18", "vit_b_16", "weight_norm", "tied_embedding", "several_outputs", "nested_inputs",
     "bfloat16", "constants", "opaque_several"],
)  # fmt: skip
def test_networks_come_back(name: str, tmp_path: Path) -> None:
    sample, graph = traced(name)
    save(graph, tmp_path / "a.netir")
    again = load(tmp_path / "a.netir")
    assert_same_file(graph, again)
    with torch.no_grad():
        want = torch.utils._pytree.tree_leaves(run(graph, *sample.args, **sample.kwargs))
        have = torch.utils._pytree.tree_leaves(run(again, *sample.args, **sample.kwargs))
    assert all(torch.equal(a, b) for a, b in zip(want, have, strict=True))


@pytest.mark.parametrize("dtype", STORED, ids=DTYPE_NAMES.get)
def test_element_types(dtype: torch.dtype, tmp_path: Path) -> None:
    bits = torch.arange(48, dtype=torch.uint8)
    data = bits.view(dtype) if dtype != torch.bool else bits > 5
    graph = holding(a=data, empty=data[:0], scalar=data[1])
    save(graph, tmp_path / "a.netir")
    assert_same_file(graph, load(tmp_path / "a.netir"))


def test_views_and_shared_storage(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    graph = holding(
        whole=base, again=base, turned=base.t(), part=base[1:3], wide=torch.zeros(1).expand(5),
        bent=torch.randn(3, dtype=torch.complex64).conj(), grad=base.clone().requires_grad_(),
    )  # fmt: skip
    save(graph, tmp_path / "a.netir")
    again = load(tmp_path / "a.netir")
    assert torch.equal(again.params["turned"].data, base.t())
    assert torch.equal(again.params["bent"].data, graph.params["bent"].data)
    addresses = {p.data.untyped_storage().data_ptr() for p in again.params.values()}
    assert len(addresses) == len(graph.params)


def test_aliases_are_stored_once(tmp_path: Path) -> None:
    graph = holding(a=torch.randn(100)).replace(aliases={"b": "a", "c": "a"})
    save(graph, tmp_path / "a.netir")
    assert dict(load(tmp_path / "a.netir").aliases) == {"b": "a", "c": "a"}
    assert list(safetensors.torch.load_file(tmp_path / "a.netir")) == ["a"]


def test_a_graph_owns_its_tensors(tmp_path: Path) -> None:
    file = tmp_path / "a.netir"
    save(holding(a=torch.ones(1000)), file)
    graph = load(file)
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert bool((graph.params["a"].data == 1).all())


def test_a_file_can_be_saved_over_itself(tmp_path: Path) -> None:
    file = tmp_path / "a.netir"
    save(holding(a=torch.ones(5)), file)
    save(load(file), file)
    assert_same_file(holding(a=torch.ones(5)), load(file))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (torch.ones(2, dtype=torch.complex128), "safetensors cannot store c128"),
        (torch.ones(2, device="meta"), "is a meta tensor"),
        (torch.ones(2, 2).to_sparse(), "is a quantized or sparse tensor"),
    ],
)
def test_what_cannot_be_stored(data: Tensor, what: str, tmp_path: Path) -> None:
    with pytest.raises(NetirError, match=what):
        save(holding(a=data), tmp_path / "a.netir")
    assert list(tmp_path.iterdir()) == []


def test_nan_weights_are_kept(tmp_path: Path) -> None:
    save(holding(a=torch.tensor([float("nan"), -0.0])), tmp_path / "a.netir")
    assert torch.isnan(load(tmp_path / "a.netir").params["a"].data[0])


def _fails_halfway(tensors: Any, path: Path, metadata: Any) -> None:
    Path(path).write_bytes(b"half")
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.netir"
    save(holding(a=torch.ones(5)), file)
    monkeypatch.setattr(store.safetensors.torch, "save_file", _fails_halfway)
    with pytest.raises(NetirError, match="the disk is full") as caught:
        save(holding(a=torch.zeros(5)), file)
    assert "is unchanged" in caught.value.fix
    assert_same_file(holding(a=torch.ones(5)), load(file))
    assert list(tmp_path.iterdir()) == [file]


def test_an_interrupt_leaves_no_draft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store.safetensors.torch, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(holding(a=torch.zeros(5)), tmp_path / "a.netir")
    assert list(tmp_path.iterdir()) == []


def test_links_and_modes_are_respected(tmp_path: Path) -> None:
    file, link = tmp_path / "a.netir", tmp_path / "link.netir"
    link.symlink_to(file)
    umask = os.umask(0o027)
    try:
        save(holding(a=torch.ones(5)), link)
    finally:
        os.umask(umask)
    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    file.chmod(0o600)
    save(holding(a=torch.ones(5)), file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("path", "what"), [("none.netir", "there is no such file"), (".", "this is a folder")]
)
def test_files_that_cannot_be_read(path: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(NetirError, match=what) as caught:
        load(tmp_path / path)
    assert str(tmp_path) in caught.value.where


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(NetirError, match="cannot write the file: No such file or directory"):
        save(holding(), tmp_path / "none" / "a.netir")


@pytest.mark.parametrize("name", ["net.onnx", "net.py"])
def test_the_name_of_a_file_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(NetirError, match=f"'{name}' is no name for a saved graph"):
        save(holding(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"

    def no_room(*args: object) -> None:
        raise safetensors.SafetensorError(said)

    monkeypatch.setattr(safetensors.torch, "save_file", no_room)
    with pytest.raises(NetirError, match="cannot write the file: the disk is full"):
        save(holding(), tmp_path / "a.netir")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("store") / "a.netir"
    save(holding(a=torch.arange(6.0), b=torch.ones(2, 2, dtype=torch.int64)), file)
    return file.read_bytes()


@given(data=st.data())
def test_every_flipped_bit_is_found(
    data: st.DataObject, good: bytes, tmp_path_factory: Any
) -> None:
    spot = data.draw(st.integers(0, 8 * len(good) - 1))
    raw = bytearray(good)
    raw[spot // 8] ^= 1 << spot % 8
    refused(bytes(raw), tmp_path_factory.mktemp("bits") / "a.netir")


@given(data=st.data())
def test_every_missing_tail_is_found(
    data: st.DataObject, good: bytes, tmp_path_factory: Any
) -> None:
    end = data.draw(st.integers(0, len(good) - 1))
    refused(good[:end], tmp_path_factory.mktemp("tail") / "a.netir")


def refused(raw: bytes, file: Path) -> None:
    file.write_bytes(raw)
    with pytest.raises(NetirError) as caught:
        load(file)
    assert str(file) in caught.value.where
    assert caught.value.fix


def rewritten(good: bytes, file: Path, change: Any, *, sign: bool = True) -> None:
    """The same file with its header changed by someone who knows the format."""
    size = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + size])
    metadata = header.pop("__metadata__")
    tensors = safetensors.torch.load(good)
    change(metadata, tensors)
    if sign:
        metadata["sha256"] = store._checksum(metadata.get("graph", ""), tensors)
    safetensors.torch.save_file(tensors, file, metadata)


def _drop(metadata: Any, tensors: Any) -> None:
    del tensors["a"]


def _add(metadata: Any, tensors: Any) -> None:
    tensors["c"] = torch.ones(1)


def _reshape(metadata: Any, tensors: Any) -> None:
    tensors["a"] = torch.ones(2, 3)


def _cast(metadata: Any, tensors: Any) -> None:
    tensors["a"] = torch.ones(6).double()


def _newer(metadata: Any, tensors: Any) -> None:
    metadata["netir"] = "7"


def _foreign(metadata: Any, tensors: Any) -> None:
    metadata.clear()


def _broken(metadata: Any, tensors: Any) -> None:
    metadata["graph"] = metadata["graph"].replace("return", "retrun")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_drop, "there is no tensor for '@a'"),
        (_add, "there is a tensor 'c', but no such parameter"),
        (_reshape, "the tensor for '@a' is f32\\[2, 3\\]"),
        (_cast, "the tensor for '@a' is f64\\[6\\]"),
        (_newer, "the file has format '7', this netir reads '1'"),
        (_foreign, "this safetensors file holds no graph"),
        (_broken, "expected 'step' or"),
    ],
)
def test_wrong_contents(change: Any, what: str, good: bytes, tmp_path: Path) -> None:
    file = tmp_path / "a.netir"
    rewritten(good, file, change)
    with pytest.raises(NetirError, match=what) as caught:
        load(file)
    assert str(file) in caught.value.where


def test_loading_runs_nothing(tmp_path: Path) -> None:
    """A file that names an operator on files is refused before torch is asked to do anything."""
    wanted = tmp_path / "secret"
    wanted.write_bytes(b"1234")
    text = print_graph(holding()).replace(
        "  return %x",
        '  %y = opaque(%x) {target="aten.from_file.default", '
        f'arguments=({json.dumps(str(wanted))}, $0)}} : f32[1]\n  return %y',
    )
    with pytest.raises(NetirError, match="string that could name a file"):
        parse_graph(text)
    metadata = {"netir": "1", "graph": text, "sha256": store._checksum(text, {})}
    safetensors.torch.save_file({}, tmp_path / "a.netir", metadata)
    with pytest.raises(NetirError, match="string that could name a file"):
        load(tmp_path / "a.netir")


def test_a_file_loads_without_the_class(tmp_path: Path) -> None:
    _, graph = traced("resnet18")
    save(graph, tmp_path / "a.netir")
    code = (
        "import sys, netir, torch; g = netir.load(sys.argv[1]);"
        "netir.run(g, torch.zeros(2, 3, 32, 32)); assert 'tests' not in str(list(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.netir"], check=True, cwd=tmp_path)


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    _, graph = traced("tied_embedding")
    found = set()
    for turn in range(8):
        save(graph.replace(name='näme "\x7f\t'), tmp_path / f"{turn}.netir")
        found.add((tmp_path / f"{turn}.netir").read_bytes())
    assert len(found) == 1
    assert load(tmp_path / "0.netir").name == 'näme "\x7f\t'
