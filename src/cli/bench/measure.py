"""Times two models in ONNX Runtime, in turns, so that both see the same state of the machine.

usage: measure.py JOB      JOB: a JSON file with `models` (two paths), `inputs` (name -> .npy file), `threads`, `runs`
Prints one JSON object: `version` of the runtime, `repeats` in a run, `seconds` (pairs: one run of each model).
"""

import json
import sys
import time


def main() -> None:
    try:
        import numpy
        import onnxruntime
    except ImportError as error:
        sys.exit(f"no-runtime {error}")
    with open(sys.argv[1], encoding="utf-8") as file:
        job = json.load(file)
    feed = {name: numpy.load(path) for name, path in job["inputs"].items()}
    sessions = []
    for path in job["models"]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = job["threads"]
        options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            names = [i.name for i in session.get_inputs()]
            session.run(None, {name: feed[name] for name in names if name in feed})
        except Exception as error:  # whatever the runtime raises is what the user has to know
            sys.exit(f"refused {path}: {' '.join(str(error).split())[:500]}")
        sessions.append((session, {name: feed[name] for name in names if name in feed}))

    def run(which: int, repeats: int) -> float:
        session, inputs = sessions[which]
        start = time.perf_counter()
        for _ in range(repeats):
            session.run(None, inputs)
        return (time.perf_counter() - start) / repeats

    slowest = max(run(which, 2) for which in (0, 1))
    # A run long enough that neither the clock nor one interruption counts.
    repeats = max(1, int(job["seconds"] / max(slowest, 1e-6)))
    seconds = [[run(0, repeats), run(1, repeats)] for _ in range(job["runs"])]
    print(json.dumps({"version": onnxruntime.__version__, "repeats": repeats, "seconds": seconds}))


main()
