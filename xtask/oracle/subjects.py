"""The models under test: where the float file and its calibration data lie, and how a file is scored.

Two kinds: the quick-start model of the repository, and models of the zoo, a folder beside the repository whose
`tools/zoo_eval.py` knows each model's task, metric and feeds.
"""

import argparse
import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from measure import float_arrays, npz_feeds, plain_session, session

CALIBRATION_SAMPLES = 64
SMOKE_SAMPLES = 2


@dataclass
class Evaluation:
    """A model's score by metric, and the float outputs of every run, in order."""

    score: dict[str, float] = field(default_factory=dict)
    outputs: list[list[np.ndarray]] = field(default_factory=list)


class Subject(Protocol):
    """A float model that can be quantized and judged."""

    model: Path
    data: Path

    def evaluate(self, model: Path, scored: bool) -> Evaluation:
        """Runs `model` on samples that calibration never saw; unscored, on a few samples only."""

    def feeds(self, n: int) -> list[dict[str, np.ndarray]]:
        """`n` of the calibration samples: those that squint takes with `--samples n`."""


class QuickStart:
    """`examples/quickstart`: handwritten digits; `test.npz` holds the input's samples and `labels`."""

    def __init__(self, folder: Path):
        self.model = folder / "digits.onnx"
        self.data = folder / "calibration.npz"
        self._test = folder / "test.npz"
        for file in (self.model, self.data, self._test):
            if not file.is_file():
                raise FileNotFoundError(f"the quick-start model is incomplete: `{file}` is missing")

    def evaluate(self, model: Path, scored: bool) -> Evaluation:
        """Runs one sample at a time: the model's batch need not be symbolic."""
        runtime = session(model)
        name = runtime.get_inputs()[0].name
        with np.load(self._test) as test:
            labels = test["labels"]
            images = test[name]
        outputs = [float_arrays(runtime.run(None, {name: image[None]})) for image in images]
        correct = [int(row[0].argmax()) == label for row, label in zip(outputs, labels, strict=True)]
        return Evaluation({"top1": float(np.mean(correct))}, outputs)


    def feeds(self, n: int) -> list[dict[str, np.ndarray]]:
        """Single pictures of the calibration set, evenly spread."""
        name = session(self.model).get_inputs()[0].name
        with np.load(self.data) as data:
            images = data[name]
        return [{name: images[i * len(images) // n][None]} for i in range(n)]


class ZooModel:
    """A model of the zoo, calibrated with feeds that its own task makes."""

    def __init__(self, zoo: Path, name: str, cache: Path):
        self._tools = _load(zoo / "tools" / "zoo_eval.py")
        self._task = self._tools.TASKS[name]
        self.model = zoo / self._task["file"]
        self.data = self._feeds(cache / name)

    def evaluate(self, model: Path, scored: bool) -> Evaluation:
        """Scores with the task's own metric; unscored, runs a few calibration feeds."""
        runner = _Recorder(self._tools.Runner(model))
        if scored:
            score = self._task["task"].score(runner, self._task["split"])
            return Evaluation(score, runner.outputs)
        for feed in npz_feeds(self.data, SMOKE_SAMPLES):
            runner(feed)
        return Evaluation({}, runner.outputs)

    def plain(self, model: Path, limit: int) -> Evaluation:
        """As `evaluate`, scored, on the first samples only, and without optimizations of the runtime."""
        runner = self._tools.Runner(model)
        runner.s = plain_session(model)
        recorder = _Recorder(runner)
        return Evaluation(self._task["task"].score(recorder, self._task["split"], limit), recorder.outputs)

    def feeds(self, n: int) -> list[dict[str, np.ndarray]]:
        """Calibration feeds, evenly spread."""
        found = list(npz_feeds(self.data, CALIBRATION_SAMPLES))
        return [found[i * len(found) // n] for i in range(n)]

    def labels(self, n: int) -> np.ndarray:
        """The classes of the first `n` calibration feeds, in the order in which the tasks of classifiers make them."""
        tools, task, split = self._tools, self._task["task"], self._task["split"]
        kind = type(task).__name__
        if kind == "ImageNet":
            found = [int(row["label"]) for row in tools._in(split, "calib")]
        elif kind == "Cifar":
            with np.load(tools.data(split, "cifar10", "test1000.npz")) as pictures:
                found = pictures["labels"]
        elif kind == "Mnist":
            found = task._z(split)[1]
        elif kind == "Magika":
            found = task.z(split)[1][::4]
        elif kind == "KwsMfcc":
            found = task.xy(split)[1][::5]
        else:
            raise ValueError(f"the labels of {kind} are not known")
        return np.asarray(found[:n], np.int64)

    def _feeds(self, folder: Path) -> Path:
        """Writes the calibration feeds once; the folder appears whole, so an interrupted run leaves no half set."""
        if not folder.is_dir():
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            feeds = self._task["task"].feeds(self._tools.Runner(self.model), self._task["split"], CALIBRATION_SAMPLES)
            for index, feed in enumerate(feeds):
                np.savez(partial / f"{index:04}.npz", **feed)
            os.replace(partial, folder)
        return folder


class _Recorder:
    """Wraps a zoo runner and keeps the float outputs of each call."""

    def __init__(self, runner):
        self._runner = runner
        self.outputs: list[list[np.ndarray]] = []

    def __getattr__(self, name: str):
        return getattr(self._runner, name)

    def __call__(self, feed):
        outputs = self._runner(feed)
        self.outputs.append(float_arrays(outputs))
        return outputs


def _load(path: Path) -> ModuleType:
    """Imports a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def zoo_names(zoo: Path) -> list[str]:
    """The ids of the zoo's models whose files are there, in the order of its table; none without a zoo."""
    tools = zoo / "tools" / "zoo_eval.py"
    if not tools.is_file():
        return []
    tasks = _load(tools).TASKS
    return [name for name, task in tasks.items() if (zoo / task["file"]).is_file()]


def over_the_zoo(description: str) -> argparse.Namespace:
    """The arguments of a script that runs squint over the models of the zoo."""
    parser = argparse.ArgumentParser(description=description)
    for option in ("--squint", "--repository", "--zoo", "--work"):
        parser.add_argument(option, type=Path, required=True)
    parser.add_argument("--only")
    return parser.parse_args()
