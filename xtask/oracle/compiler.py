"""Runs the squint binary under test."""

import json
import shutil
import subprocess
from pathlib import Path

TIMEOUT_SECONDS = 600
INTERPRETED_SAMPLES = 4
"""Samples that squint runs by itself."""


class SquintError(Exception):
    """squint exited with an error; the message is the last line it wrote."""


class Squint:
    """The command line of one squint binary."""

    def __init__(self, binary: Path):
        self._binary = binary

    def quantize(self, model: Path, output: Path, data: Path, *options: str) -> Path:
        """`squint quantize MODEL -o OUT --data DATA`; returns `output`."""
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        self.run("quantize", str(model), "-o", str(output), "--data", str(data), *options)
        return output

    def optimize(self, model: Path, output: Path) -> Path:
        """`squint optimize MODEL -o OUT`; returns `output`."""
        output.parent.mkdir(parents=True, exist_ok=True)
        output.unlink(missing_ok=True)
        self.run("optimize", str(model), "-o", str(output))
        return output

    def explain(self, model: Path) -> dict:
        """`squint explain MODEL`: what squint expects the runtime to make of a model as it is."""
        return json.loads(self.run("explain", str(model), "--format", "json"))

    def convert(self, model: Path, output: Path, *options: str) -> Path:
        """`squint convert MODEL -o OUT`; returns `output`."""
        output.unlink(missing_ok=True)
        self.run("convert", str(model), "-o", str(output), *options)
        return output

    def interpret(self, model: Path, data: Path, folder: Path) -> list[Path]:
        """`squint run MODEL --data DATA -o FOLDER`; returns an `.npz` of outputs for each sample, in order."""
        shutil.rmtree(folder, ignore_errors=True)
        self.run("run", str(model), "-o", str(folder), "--data", str(data), "--samples", str(INTERPRETED_SAMPLES))
        return sorted(folder.glob("*.npz"))

    def print(self, model: Path) -> str:
        """`squint print MODEL`: the model as ONNX text."""
        return self.run("print", "--full", str(model))

    def run(self, *arguments: str) -> str:
        """Any command; returns what it wrote to standard output."""
        command = [self._binary, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_SECONDS
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            raise SquintError(f"exit {done.returncode}: {' / '.join(lines[:3])}")
        return done.stdout
