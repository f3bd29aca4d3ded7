"""The folder of a run and its journal: what is finished stays, what was cut short goes."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from netir import NetirError
from netir.runs.folder import RunFolder
from netir.runs.journal import Journal


def hold(path: Path) -> None:
    """Take a folder as a run does, and let go of it."""
    with RunFolder.held(path):
        pass


def test_a_journal_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("begun", seed=3, widths=(1, 2), error=float("inf"))
    journal.append("step", index=0)
    again = Journal(path)
    assert again.events == journal.events
    assert again.events[0].data == {"seed": 3, "widths": [1, 2], "error": None}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["journal"], line["event"]) for line in lines] == [(1, "begun"), (1, "step")]
    assert all(line["time"].endswith("+00:00") for line in lines)
    last = again.last("step")
    assert last is not None
    assert last["index"] == 0
    assert again.last("finished") is None


@pytest.mark.parametrize("kept", range(1, 40))
def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("begun", seed=1)
    whole = path.read_bytes()
    journal.append("step", index=0)
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    again = Journal(path)
    assert [e.kind for e in again.events] == ["begun"]
    again.append("step", index=1)
    assert path.read_bytes().startswith(whole)
    assert [e.data for e in Journal(path).events] == [{"seed": 1}, {"index": 1}]


def test_a_torn_line_of_zeros_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append("begun")
    with path.open("ab") as file:
        file.write(b"\0" * 20 + b"\n")
    assert len(Journal(path).events) == 1


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"journal": 1}', "\0", '{"journal": true}'])
def test_a_damaged_journal_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).append("begun")
    good = path.read_text()
    path.write_text(good + line + "\n" + good)
    with pytest.raises(NetirError, match="the journal is damaged") as raised:
        Journal(path)
    assert raised.value.where == f"{path}, line 2"
    assert "--fresh" in raised.value.fix


def test_a_journal_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"journal": 7, "time": "", "event": "begun"}\n')
    with pytest.raises(NetirError, match="has format 7, this netir reads 1"):
        Journal(path)


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(NetirError, match="cannot read the journal: Is a directory"):
        Journal(tmp_path / "journal.jsonl")


def test_a_full_disk_leaves_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append("begun")
    write = os.write

    def half(handle: int, line: bytes) -> int:
        write(handle, line[: len(line) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(NetirError, match="cannot write the journal: the disk is full"):
            journal.append("step", index=0)
    assert [e.kind for e in Journal(path).events] == ["begun"]
    journal.append("step", index=1)
    assert [e.kind for e in Journal(path).events] == ["begun", "step"]


def test_a_folder_belongs_to_one_process(tmp_path: Path) -> None:
    mine = RunFolder.held(tmp_path / "run")
    with mine, pytest.raises(NetirError, match="another process is running in this folder"):
        hold(tmp_path / "run")
    hold(tmp_path / "run")


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(NetirError, match="is not the folder of a run") as raised:
        hold(tmp_path)
    assert raised.value.where == "thesis.txt"
    assert (tmp_path / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["steps", "exports", "journal.jsonl", "report.html", "spec.yaml"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    hold(run)
    (run / "journal.jsonl").touch()
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    with pytest.raises(NetirError, match="a link stands where the run would write") as raised:
        hold(run)
    assert raised.value.where == str(run / name)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../net.onnx", "a/../../b", "~/net.onnx", "", "a\\..\\b", "."]
)
def test_places_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(NetirError, match="no place inside the folder"):
        folder.inside(name)


def test_a_step_appears_in_one_go(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    place = folder.step(3, "prune (amount=0.3)/..")
    assert place == tmp_path / "run/steps/03-prune-amount-0.3"

    def half() -> None:
        with folder.making(place) as draft:
            (draft / "graph.netir").write_text("half")
            assert not place.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        half()
    assert list(place.parent.iterdir()) == []
    (place.parent / f".{place.name}.tmp").mkdir()
    (place.parent / f".{place.name}.tmp" / "stale").write_text("from a killed process")
    for text in ("whole", "again"):
        with folder.making(place) as draft:
            (draft / "graph.netir").write_text(text)
        assert [p.name for p in place.parent.iterdir()] == [place.name]
        assert [p.name for p in place.iterdir()] == ["graph.netir"]
        assert (place / "graph.netir").read_text() == text


def test_what_the_system_refuses_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NetirError, match="cannot write in the folder of the run") as raised:
        hold(tmp_path / "file" / "run")
    assert "goes on from its last finished step" in raised.value.fix

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "run"))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(NetirError, match="Permission denied") as raised:
        hold(tmp_path / "run")
    assert raised.value.where == str(tmp_path / "run")


def test_clearing_takes_only_what_a_run_wrote(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hold(run)
    folder = RunFolder(run)
    Journal(folder.journal).append("begun")
    (run / "notes.txt").write_text("mine")
    (run / "spec.yaml").write_text("")
    with folder.making(folder.step(-1, "model")) as draft:
        (draft / "graph.netir").write_text("")
    folder.clear()
    assert sorted(p.name for p in run.iterdir()) == [".lock", "journal.jsonl", "notes.txt"]
    assert Journal(folder.journal).events == []


def test_drafts_of_a_killed_process_are_taken_away(tmp_path: Path) -> None:
    run = tmp_path / "run"
    hold(run)
    (run / "journal.jsonl").touch()
    junk = (".exports.tmp/net.onnx", ".spec.yaml.0123456789ab.tmp", "steps/.00-fold.tmp/graph",
            "steps/..00-train.part.tmp/graph")  # fmt: skip
    kept = (".mine.tmp", "steps/.00-train.part/graph", "steps/00-fold/graph")
    for name in (*junk, *kept):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("")
    hold(run)
    assert sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file()) == sorted(
        (".lock", "journal.jsonl", *kept)
    )


def test_links_in_the_exports_are_replaced_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    hold(tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    (folder.path / "exports").mkdir()
    (folder.path / "exports/net.safetensors").symlink_to(outside)
    with folder.making(folder.inside("exports")) as draft:
        (draft / "net.safetensors").write_text("weights")
    assert outside.read_text() == "precious"
    assert not (folder.path / "exports/net.safetensors").is_symlink()


def test_a_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    with pytest.raises(NetirError, match="is not the folder of a run"), RunFolder.held(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_older_folder_stays_whole_until_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while one takes the other's place leaves one of the two, never half of one."""
    with RunFolder.held(tmp_path / "run") as folder:
        target = folder.step(0, "train")

        def killed(self: Path, to: Path) -> Path:
            raise KeyboardInterrupt

        def written(text: str) -> None:
            with folder.making(target) as draft:
                (draft / text).write_text(text)

        written("one")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", killed)
            with pytest.raises(KeyboardInterrupt):
                written("two")
        assert [p.name for p in target.iterdir()] == ["one"]
        written("two")
        assert [p.name for p in target.iterdir()] == ["two"]
        assert [p.name for p in target.parent.iterdir()] == [target.name]
