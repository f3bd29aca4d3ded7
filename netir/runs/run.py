"""Running a spec in a folder, step by step, so that a run that was killed goes on.

What is finished is in the journal; everything else is done again. A step draws from its own stream
of chance and begins with the files of the one before it, so the result is the same however often
the run was killed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netir.errors import NetirError
from netir.files import replacing
from netir.ir import Graph
from netir.report import Epoch, Growth, Stage, Story, codec, write_report
from netir.runs import steps
from netir.runs.checkpoints import Checkpoints
from netir.runs.compare import canonical, refuse_other
from netir.runs.exports import export
from netir.runs.folder import RunFolder
from netir.runs.journal import Event, Journal, damaged
from netir.runs.measure import timed
from netir.runs.source import Given, Source, source_of
from netir.runs.state import State, read_state, write_state
from netir.runs.story import baseline, stages_of, story_of
from netir.runs.targets import judge
from netir.runs.versions import machine, versions
from netir.runs.words import told
from netir.spec import PassStep, Spec, TrainStep

Listener = Callable[[Event], object]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What came of a run: its folder, the network, its story, and whether all targets were met.

    `again` says that the run had been finished before, and nothing was done now.
    """

    folder: Path
    graph: Graph
    story: Story
    met: bool
    again: bool = False


def run_spec(
    spec: Spec,
    folder: str | os.PathLike[str],
    *,
    model: Given | None = None,
    name: str = "",
    fresh: bool = False,
    listen: Listener | None = None,
) -> Outcome:
    """Do all that a spec says, in a folder; a run that was begun there goes on.

    `model` is a network in place of the spec's, called `name` in the journal. With `fresh` the run
    starts anew. `listen` is told every event. Raises for what cannot be done, and for a contract
    that is broken; a target that is not met is told by the outcome.
    """
    source = source_of(spec, model, name)
    with RunFolder.held(Path(folder)) as place:
        if fresh:
            place.clear()
        return _Run(spec, place, source, listen).go()


def report(folder: str | os.PathLike[str]) -> Path:
    """Write the report of a run again, of whatever it has done so far; gives its path."""
    place = RunFolder(Path(folder))
    story = story_of(Journal(place.journal), place)
    place.check()
    return write_report(story, place.inside("report.html"))


class _Run:
    def __init__(
        self, spec: Spec, place: RunFolder, source: Source, listen: Listener | None
    ) -> None:
        self.spec, self.place, self.source, self.listen = spec, place, source, listen
        self.text = canonical(spec)
        self.journal = Journal(place.journal)
        self.metric = "" if spec.task is None else spec.task.judged_by.name

    def go(self) -> Outcome:
        """Begin or go on, and bring the run to its end."""
        done = self._begun()
        if self.journal.last("finished") is not None:
            return self._outcome(self._state(done), again=True)
        try:
            state = self._steps(done)
            self._finish(done, state)
        except KeyboardInterrupt:
            self._try_to_tell("interrupted")
            raise
        except NetirError as error:
            self._try_to_tell("failed", what=error.what, where=error.where, fix=error.fix)
            raise
        return self._outcome(state)

    def tell(self, kind: str, /, **data: Any) -> None:
        """Write an event into the journal and the log, and tell whoever listens."""
        event = self.journal.append(kind, **data)
        for line in told(event):
            self.place.log(f"{event.time}  {line}")
        if self.listen is not None:
            self.listen(event)

    def _try_to_tell(self, kind: str, /, **data: Any) -> None:
        """Tell how the run ended, unless the same trouble, such as a full disk, forbids it."""
        with suppress(NetirError):
            self.tell(kind, **data)

    def _begun(self) -> list[Event]:
        """The steps that are finished; checks that the folder is of this very run."""
        begun = self.journal.last("begun")
        if begun is None:
            self.place.clear()
            self.tell(
                "begun", name=self.spec.name, seed=self.spec.seed, model=self.source.name,
                spec=self.text, metric=self.metric, versions=versions(), machine=machine(),
            )  # fmt: skip
            self._write_spec()
            return []
        with damaged(self.journal.path):
            done = self._same_run(begun)
            notes = _other_versions(begun["versions"])
        if done:
            self.source.check(self._state(done[:1]).graph)
        for event in done:
            Checkpoints(self.place, self.place.step(event["index"], event["name"])).forget()
        if self.journal.last("finished") is None:
            self._write_spec()
            self.tell("resumed", finished=len(done), notes=notes)
        return done

    def _same_run(self, begun: Event) -> list[Event]:
        """The finished steps that the journal tells, if it is the journal of this run."""
        refuse_other(begun["spec"], self.text, str(self.place.path))
        if begun["model"] != self.source.name:
            raise NetirError(
                f"the run began with the network '{begun['model']}', not '{self.source.name}'",
                str(self.place.path), "run into another folder, or start anew with --fresh",
            )  # fmt: skip
        done = list(self.journal.all("step"))
        for event in done:
            codec.read(Stage, event["stage"], "stage")
            codec.read(Mapping[str, str], event["files"], "files")
        wanted = list(enumerate(["model", *(step.name for step in self.spec.passes)], -1))
        if [(event["index"], event["name"]) for event in done] != wanted[: len(done)]:
            raise ValueError("its steps are not those of the spec")
        if self.journal.last("finished") is not None and len(done) < len(wanted):
            raise ValueError("it is finished without all steps")
        return done

    def _write_spec(self) -> None:
        with replacing(self.place.inside("spec.yaml")) as draft:
            draft.write_text(self.text, encoding="utf-8")

    def _state(self, done: list[Event]) -> State:
        """The state after the last of these steps, as its files have it."""
        last = done[-1]
        return read_state(self.place.step(last["index"], last["name"]), last["files"])

    def _steps(self, done: list[Event]) -> State:
        for index in range(len(done) - 1, len(self.spec.passes)):
            step = None if index < 0 else self.spec.passes[index]
            name = "model" if step is None else step.name
            self.tell("step-begun", index=index, count=len(self.spec.passes), name=name,
                      text=self.source.name if step is None else str(step))  # fmt: skip
            if step is None:
                made = steps.start(self.spec, self.source.read)
            elif isinstance(step, PassStep):
                made = steps.rewrite(step, index, self._state(done), self.spec)
            else:
                made = self._train(step, index, self._state(done))
            done.append(self._kept(index, name, made))
        return self._state(done)

    def _train(self, step: TrainStep, index: int, state: State) -> steps.Done:
        kept = Checkpoints(self.place, self.place.step(index, step.name))
        newer, so_far = kept.read()

        def on_epoch(epochs: Sequence[Epoch], left: Callable[[], State]) -> None:
            if step.grow is None:  # what a grower remembers is not kept: it begins anew
                kept.keep(epochs, left)
            self.tell(
                "epoch", index=index, number=len(epochs), epochs=step.options.epochs,
                epoch=codec.plain(epochs[-1]), metric=self.metric,
            )  # fmt: skip

        def on_growth(growth: Growth) -> None:
            self.tell("grown", index=index, **codec.plain(growth))

        return steps.training(
            step, index, newer or state, self.spec, so_far=so_far, on_epoch=on_epoch,
            on_growth=on_growth,
        )  # fmt: skip

    def _kept(self, index: int, name: str, made: steps.Done) -> Event:
        """A step is finished when this returns, and not before."""
        stage = codec.plain(made.stage)
        facts = {"index": index, **{k: v for k, v in stage.items() if k != "seconds"}}
        target = self.place.step(index, name)
        with self.place.making(target) as draft:
            files = write_state(draft, made.state, facts)
        self.tell("step", index=index, name=name, files=files, stage=stage, notes=made.notes,
                  metric=self.metric)  # fmt: skip
        Checkpoints(self.place, target).forget()
        return self.journal.events[-1]

    def _finish(self, done: list[Event], state: State) -> None:
        """Measure, export, judge and report, each once."""
        before = baseline(stages_of(done))
        first = self._state(done[: before + 1]).graph
        said = self.journal.last
        if said("measured") is None:
            self.tell("measured", **timed(first, state.graph, self.spec))
        if said("exported") is None:
            self.tell("exported", exports=export(state.graph, self.spec, self.place))
        if said("judged") is None:
            story = story_of(self.journal)
            self.tell("judged", targets=[codec.plain(t) for t in judge(story, self.spec)])
        if self.spec.report:
            write_report(story_of(self.journal, self.place), self.place.inside("report.html"))
        self.tell("finished", met=all(target.met for target in story_of(self.journal).targets))

    def _outcome(self, state: State, again: bool = False) -> Outcome:
        story = story_of(self.journal)
        met = all(target.met for target in story.targets)
        return Outcome(self.place.path, state.graph, story, met, again)


def _other_versions(then: Mapping[str, str]) -> list[str]:
    """What has another version now than when the run began."""
    return [
        f"{name} is {now} now and was {then.get(name)} when the run began"
        for name, now in versions().items()
        if then.get(name) != now
    ]


__all__ = ["Listener", "Outcome", "run_spec"]
