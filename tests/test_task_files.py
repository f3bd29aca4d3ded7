"""The tasks that come with netir: every form of file that they read, and every one they refuse."""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from netir import registry
from netir.errors import NetirError
from netir.task import Task
from netir.tasks import TASKS, ArrayFile, Digits, Images, Mnist, files
from netir.tasks import archive as archives

X, Y = torch.arange(40.0).view(10, 4), torch.arange(10) % 3


def test_digits_are_split_evenly() -> None:
    data = Digits().data
    assert (len(data.train), len(data.test), data.classes) == (1438, 359, 10)  # type: ignore[arg-type]
    x = torch.cat([x for x, _ in Digits(batch_size=500).train_batches()])
    assert abs(float(x.mean())) < 1e-5
    assert abs(float(x.std()) - 1) < 1e-3
    assert float(next(Digits(normalise=False).test_batches())[0].min()) == 0


def test_moved_pictures_are_moved() -> None:
    plain = Digits(normalise=False)
    moved = Digits(normalise=False, shift=2, flip=True)
    one, other = next(plain.train_batches())[0], next(moved.train_batches())[0]
    assert not torch.equal(one, other)
    lost = one.sum((1, 2, 3)) - other.sum((1, 2, 3))
    assert (lost > -1e-4).all(), "pixels leave, none come"


CHANCE = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (20, 6, 6), dtype=torch.uint8, generator=CHANCE)
LABELS = torch.arange(20, dtype=torch.uint8) % 2


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **{n: np.asarray(a) for n, a in arrays.items()})
    return path


def four(names: tuple[str, ...] = ("x_train", "y_train", "x_test", "y_test")) -> dict[str, Any]:
    return dict(zip(names, (IMAGES[:14], LABELS[:14], IMAGES[14:], LABELS[14:]), strict=True))


def idx(array: np.ndarray[Any, Any], code: int = 8) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return head + array.tobytes()


IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte",
       "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")  # fmt: skip


def write_idx(folder: Path, packed: bool, dotted: bool = False) -> Path:
    for name, array in zip(IDX, four().values(), strict=True):
        name = name.replace("-idx", ".idx") if dotted else name
        data = idx(array.numpy())
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return folder


def holds_the_images(task: Task) -> None:
    """A task of IMAGES: all the pixels, one colour, two classes."""
    assert task.classes == 2
    assert {n: str(t) for n, t in task.inputs.items()} == {"x": "f32[batch, 1, 6, 6]"}
    (x, y), *rest = task.test_batches()
    assert not rest
    torch.testing.assert_close(x.squeeze(1), IMAGES[14:] / 255)
    assert torch.equal(y, LABELS[14:].long())
    assert sum(len(x) for x, _ in task.train_batches()) == 14


@pytest.mark.parametrize("names", files.NAMES)
def test_mnist_npz(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = npz(tmp_path / "mnist.npz", **four(names), other=["text"])
    holds_the_images(Mnist(str(path), normalise=False))


@pytest.mark.parametrize("form", [(False, False), (True, False), (False, True), (True, True)])
def test_mnist_idx(tmp_path: Path, form: tuple[bool, bool]) -> None:
    holds_the_images(Mnist(str(write_idx(tmp_path, *form)), normalise=False))


def test_images_npz_and_parts(tmp_path: Path) -> None:
    holds_the_images(Images(str(npz(tmp_path / "a.npz", **four())), normalise=False))
    folder = tmp_path / "parts"
    folder.mkdir()
    npz(folder / "train_0.npz", x=IMAGES[:8], y=LABELS[:8])
    npz(folder / "train_1.npz", images=IMAGES[8:14], labels=LABELS[8:14, None])
    npz(folder / "test.npz", x=IMAGES[14:], y=LABELS[14:])
    holds_the_images(Images(str(folder), normalise=False))
    few = Images(str(folder), limit=2)
    labels = {"y_train": LABELS[:14, None], "y_test": LABELS[14:, None]}
    assert len(Images(str(npz(tmp_path / "b.npz", **(four() | labels))), limit=3).data.train) == 6  # type: ignore[arg-type]
    assert (len(few.data.train), len(few.data.test)) == (4, 4)  # type: ignore[arg-type]


def test_colours_may_come_last(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8)
    path = npz(tmp_path / "a.npz", x_train=images, y_train=[0, 1, 0, 1], x_test=images,
               y_test=[0, 1, 0, 1])  # fmt: skip
    (x, _), = Images(str(path), normalise=False).test_batches()
    torch.testing.assert_close(x, images.permute(0, 3, 1, 2) / 255)


def test_binary_cifar(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3072), np.uint8)
    for kind, heads in (("10", 1), ("100", 2)):
        folder = tmp_path / kind
        folder.mkdir()
        head = np.array([[9] * (heads - 1) + [label] for label in (0, 1, 1, 0)], np.uint8)
        records = np.concatenate([head, pictures], 1)
        names = ("data_batch_1.bin", "test_batch.bin") if heads == 1 else ("train.bin", "test.bin")
        for name in names:
            records.tofile(folder / name)
        (x, y), = Images(str(folder), normalise=False).test_batches()
        assert y.tolist() == [0, 1, 1, 0]
        torch.testing.assert_close(x, torch.from_numpy(pictures).view(4, 3, 32, 32) / 255)


def picture(
    number: int, form: str = "PNG", size: tuple[int, int] = (6, 6), mode: str = "L"
) -> bytes:
    image = Image.fromarray(IMAGES[number].numpy()).resize(size).convert(mode)
    stream = io.BytesIO()
    image.save(stream, form)
    return stream.getvalue()


def tree(form: str = "PNG") -> dict[str, bytes]:
    """IMAGES as files in train/<class> and test/<class>."""
    end = "png" if form == "PNG" else "JPG"
    return {
        f"{'train' if i < 14 else 'test'}/{'ab'[int(LABELS[i])]}/{i:02}.{end}": picture(i, form)
        for i in range(20)
    }


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_image_folder_and_zip(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "folder", tree())
    (folder / "train/a/.hidden.png").write_bytes(b"nothing")
    (folder / "notes.txt").write_text("about")
    for path in (folder, write_zip(tmp_path / "a.zip", tree())):
        task = Images(str(path), grey=True, normalise=False)
        x, y = next(task.test_batches())
        order = torch.argsort(LABELS[14:].long(), stable=True)
        assert torch.equal(y, LABELS[14:].long()[order])
        torch.testing.assert_close(x.squeeze(1), (IMAGES[14:] / 255)[order])
        assert (len(task.data.train), task.classes) == (14, 2)  # type: ignore[arg-type]
        assert Images(str(path)).inputs["x"].shape[1:] == (3, 6, 6)


def test_jpeg_in_a_deeper_folder_and_other_names(tmp_path: Path) -> None:
    files = {f"data/{n.replace('test', 'VAL')}": d for n, d in tree("JPEG").items()}
    files["__MACOSX/train/a/00.png"] = b"nothing"
    task = Images(str(write_zip(tmp_path / "a.zip", files)))
    assert (len(task.data.train), len(task.data.test)) == (14, 6)  # type: ignore[arg-type]


def test_class_folders_alone_are_split_by_the_seed(tmp_path: Path) -> None:
    flat = {n.partition("/")[2]: d for n, d in tree().items()}
    folder = str(write_tree(tmp_path, flat))
    task = Images(folder, test_share=0.3)
    (x, y), = task.test_batches()
    assert torch.bincount(y).tolist() == [3, 3]
    assert torch.equal(x, next(Images(folder, test_share=0.3).test_batches())[0])
    assert not torch.equal(x, next(Images(folder, test_share=0.3, seed=1).test_batches())[0])


def test_size_limit_and_palettes(tmp_path: Path) -> None:
    files = tree()
    files["train/a/00.png"] = picture(0, size=(9, 5))
    files["train/a/02.png"] = picture(2, mode="P")
    files["train/a/04.png"] = picture(4, mode="1")
    folder = str(write_tree(tmp_path, files))
    with pytest.raises(NetirError, match="is 6×6, and those before it are 9×5"):
        _ = Images(folder).data
    task = Images(folder, size=4, limit=2)
    assert task.inputs["x"].shape[1:] == (3, 4, 4)
    assert (len(task.data.train), len(task.data.test)) == (4, 4)  # type: ignore[arg-type]


def test_hostile_names_in_a_zip_do_no_harm(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    before = set(tmp_path.rglob("*"))
    files = {f"{'/abs' if i % 3 else '../..'}/{n}": d for i, (n, d) in enumerate(tree().items())}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    (inside / "a.zip").write_bytes(stream.getvalue())
    task = Images(str(inside / "a.zip"))
    assert task.classes == 2
    assert set(tmp_path.rglob("*")) == before | {inside / "a.zip"}


@pytest.mark.parametrize("form", ["npz", "safetensors", "folder"])
def test_arrays_of_every_form(tmp_path: Path, form: str) -> None:
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:5], "y_test": Y[:5]}
    path = tmp_path / f"data.{form}"
    if form == "npz":
        npz(path, **arrays)
    elif form == "safetensors":
        save_file({n: t.contiguous().clone() for n, t in arrays.items()}, path)
    else:
        path.mkdir()
        for name, tensor in arrays.items():
            np.save(path / f"{name}.npy", np.asfortranarray(tensor.double().numpy())
                    if name[0] == "x" else tensor.int().numpy())  # fmt: skip
    task = ArrayFile(str(path), batch_size=4)
    (x, y), = task.test_batches()
    assert torch.equal(x, X[:5])
    assert torch.equal(y, Y[:5])
    assert (task.classes, task.steps()) == (3, 3)


def test_arrays_without_a_test_part(tmp_path: Path) -> None:
    path = str(npz(tmp_path / "a.npz", x_train=X, y_train=X[:, 0]))
    task = ArrayFile(path, loss="mse", normalise=True, batch_size=20)
    assert (len(task.data.train), len(task.data.test), task.classes) == (8, 2, None)  # type: ignore[arg-type]
    assert task.judged_by.name == "loss"
    (x, _), = task.train_batches()
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(4))


def test_tokens_stay_whole_numbers(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", x_train=X.short(), y_train=Y, x_test=X.short(), y_test=Y)
    assert str(ArrayFile(str(path), normalise=True).inputs["x"]) == "i64[batch, 4]"
    path = npz(tmp_path / "b.npz", x_train=X.byte(), y_train=Y, x_test=X.byte(), y_test=Y)
    assert float(next(ArrayFile(str(path)).test_batches())[0].max()) == pytest.approx(39 / 255)


def test_tasks_are_registered() -> None:
    assert list(TASKS) == ["arrays", "digits", "images", "mnist"]
    assert registry.called("task", "digits") is Digits


# Refusals


def _npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header.encode() + data


def _with(name: str, data: bytes) -> Callable[[Path], str]:
    """An .npz of four arrays, one of them made of these bytes."""

    def write(folder: Path) -> str:
        path = npz(folder / "a.npz", **four())
        arrays = {n: np.asarray(a) for n, a in four().items() if n != name}
        np.savez(path, **arrays)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(f"{name}.npy", data)
        return str(path)

    return write


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }\n"
NEGATIVE = "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,), }\n"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: str(folder / "none.npz"), "there is no file or folder"),
        (lambda folder: "", "there is no file or folder ''"),
        (lambda folder: str(folder), "the folder has no file 'train-images-idx3-ubyte'"),
        (lambda folder: write_to(folder / "a.npz", b"PK nothing"), "the file is damaged"),
        (lambda folder: write_to(folder / "a.npz", b""), "the file is damaged"),
        (lambda folder: write_to(folder / "a.pkl", b""), "a '.pkl' file holds no named arrays"),
        (lambda folder: str(npz(folder / "a.npz", x_train=IMAGES)), "there is no array 'y_train'"),
        (lambda folder: str(npz(folder / "a.npz", other=IMAGES)), "there is no array 'x_train'"),
        (_with("x_train", b"no array"), "the file is damaged"),
        (_with("x_train", _npy(HUGE)), "too short for that"),
        (_with("x_train", _npy(NEGATIVE)), "too short for that"),
        (_with("x_train", _npy("(" * 5000)), "the file is damaged"),
        (_with("x_train", _npy(HUGE, version=b"\x09\x00")), "it has version"),
        (lambda folder: str(npz(folder / "a.npz", **(four() | {"y_test": np.array([{}] * 6)}))),
         "of Python objects, not of numbers"),
        (lambda folder: str(npz(folder / "a.npz", **(four() | {"y_test": ["a"] * 6}))),
         "the array is of <U1, not of numbers"),
        (lambda folder: str(npz(folder / "a.npz", **(four() | {"y_test": LABELS}))),
         "there are 6 inputs and 20 targets"),
        (lambda folder: str(npz(folder / "a.npz", **(four() | {"x_train": IMAGES[:14, 0, 0]}))),
         "the pictures have 1 axes"),
        (lambda folder: str(npz(folder / "a.npz", **(four() | {"x_train": IMAGES[:14, :0]}))),
         r"the inputs are empty: \(14, 1, 0, 6\)"),
        (lambda folder: str(npz(folder / "a.npz", **(four() | {"y_train": LABELS[:14] / 2}))),
         "the targets are float32, and cross-entropy"),
    ],
)  # fmt: skip
def test_refused_npz(tmp_path: Path, write: Callable[[Path], str], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        _ = Mnist(write(tmp_path)).data


def write_to(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it ends after 0 of 4 bytes"),
        (b"\x00\x00\x08", "it ends after 3 of 4 bytes"),
        (b"\x01\x00\x08\x01\x00\x00\x00\x01a", "does not begin as an idx file does"),
        (b"\x00\x00\x07\x01\x00\x00\x00\x01a", "does not begin as an idx file does"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "takes more than 8 GiB"),
        (idx(IMAGES.numpy())[:-1], "it ends after"),
        (idx(IMAGES.numpy()) + b"a", "longer than it says"),
    ],
)
def test_refused_idx(tmp_path: Path, data: bytes, message: str) -> None:
    folder = write_idx(tmp_path, packed=False)
    (folder / IDX[0]).write_bytes(data)
    with pytest.raises(NetirError, match=message):
        _ = Mnist(str(folder)).data


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    folder = write_idx(tmp_path, packed=True)
    path = folder / f"{IDX[0]}.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(NetirError, match="the file is damaged"):
        _ = Mnist(str(folder)).data


@pytest.mark.parametrize("form", ["npz", "safetensors", "folder", "zip", "idx"])
def test_more_than_memory_is_refused(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LIMIT", 200)
    task: Task
    if form == "npz":
        task = ArrayFile(str(npz(tmp_path / "a.npz", **four())))
    elif form == "idx":
        task = Mnist(str(write_idx(tmp_path, packed=True)))
    elif form == "safetensors":
        save_file({n: t.clone() for n, t in four().items()}, tmp_path / "a.safetensors")
        task = ArrayFile(str(tmp_path / "a.safetensors"))
    else:
        zipped = form == "zip"
        path = write_zip(tmp_path / "a.zip", tree()) if zipped else write_tree(tmp_path, tree())
        task = Images(str(path))
    with pytest.raises(NetirError, match="takes more than 200 bytes in memory"):
        _ = task.data


BAD = picture(0)[:60]


@pytest.mark.parametrize(
    ("files_", "message"),
    [
        ({"train/a/0.png": picture(0)}, "there is no folder 'test'"),
        ({"test/a/0.png": picture(0)}, "there is no folder 'train'"),
        ({"0.png": picture(0)}, "lies in no class folder"),
        ({"a/0.gif": b""}, "there are no PNG or JPEG pictures"),
        ({"data_batch_1": b"", "batches.meta": b""}, "is a Python pickle"),
        ({"a/0.png": b""}, "no whole PNG or JPEG picture"),
        ({"a/0.png": BAD, "b/0.png": BAD}, "no whole PNG or JPEG picture"),
        ({**tree(), "test/c/0.png": picture(0)}, "class 'c' is in the test data"),
        ({"a/0.png": picture(0), "a/1.png": picture(1)}, "there is only one class"),
        ({"a/0.png": picture(0)}, "one example cannot be split"),
        ({"train1.npz": b""}, r"there is no file test\*.npz"),
        ({"train1.npz": b"", "test.npz": b""}, "the file is damaged"),
        ({"data_batch_1.bin": b"1234", "test_batch.bin": b""}, "the file is damaged"),
    ],
)
def test_refused_folders(tmp_path: Path, files_: dict[str, bytes], message: str) -> None:
    with pytest.raises(NetirError, match=message):
        _ = Images(str(write_tree(tmp_path, files_))).data


def test_refused_parts(tmp_path: Path) -> None:
    npz(tmp_path / "train0.npz", x=IMAGES, y=LABELS)
    npz(tmp_path / "train1.npz", x=IMAGES[:, :4], y=LABELS)
    npz(tmp_path / "test.npz", x=IMAGES)
    with pytest.raises(NetirError, match="of another form than those of the first part"):
        _ = Images(str(tmp_path)).data
    (tmp_path / "train1.npz").unlink()
    with pytest.raises(NetirError, match="there are no arrays 'x' and 'y'"):
        _ = Images(str(tmp_path)).data
    npz(tmp_path / "test.npz", x=IMAGES, y=LABELS)
    with pytest.raises(NetirError, match="size and grey are for PNG and JPEG files"):
        _ = Images(str(tmp_path), size=4).data


def test_refused_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"")
    with pytest.raises(NetirError, match="is a Python pickle, or holds some"):
        _ = Images(str(path)).data
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(NetirError, match="the file is damaged"):
        _ = Images(str(tmp_path / "a.zip")).data
    whole = write_zip(tmp_path / "b.zip", tree()).read_bytes()
    place = whole.index(b"IDAT") + 8
    (tmp_path / "b.zip").write_bytes(whole[:place] + b"????" + whole[place + 4 :])
    with pytest.raises(NetirError, match="the file is damaged: Bad CRC-32"):
        _ = Images(str(tmp_path / "b.zip")).data
    monkeypatch.setattr(archives, "_MOST_BYTES", 10)
    with pytest.raises(NetirError, match="the picture file has 0 MiB"):
        _ = Images(str(write_zip(tmp_path / "c.zip", tree()))).data


def test_a_bomb_of_pixels_is_refused(tmp_path: Path) -> None:
    for size, message in (((9000, 9000), "has 81,000,000 pixels"), ((16000, 16000), "no whole")):
        stream = io.BytesIO()
        Image.new("1", size).save(stream, "PNG")
        write_tree(tmp_path, {"a/0.png": stream.getvalue(), "b/0.png": picture(0)})
        with pytest.raises(NetirError, match=message):
            _ = Images(str(tmp_path)).data


def test_pictures_need_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(write_tree(tmp_path, tree()))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(NetirError, match="need Pillow, which is not installed"):
        _ = Images(folder).data
