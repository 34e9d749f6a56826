"""Accuracy and speed of a model made from digits.onnx, on ONNX Runtime.

    pip install numpy onnxruntime
    python evaluate.py digits.int8.onnx

Prints the accuracy on the 300 test pictures, how often the model agrees with digits.onnx, and the latency of one
picture on one thread: both models run in turn, so that a busy machine slows both alike.
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

HERE = Path(__file__).resolve().parent
WARM_UP, ROUNDS = 20, 500


def open_session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def classify(session, images):
    return session.run(["logits"], {"image": images})[0].argmax(1)


def latencies(sessions, image):
    """Milliseconds, [ROUNDS, sessions], the sessions taking turns."""
    times = np.zeros((WARM_UP + ROUNDS, len(sessions)))
    for row in times:
        for index, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(["logits"], {"image": image})
            row[index] = 1e3 * (time.perf_counter() - start)
    return times[WARM_UP:]


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: python evaluate.py MODEL.onnx")
    test = np.load(HERE / "test.npz")
    images, labels = test["image"], test["labels"]
    float_session, session = open_session(HERE / "digits.onnx"), open_session(sys.argv[1])
    float_classes, classes = classify(float_session, images), classify(session, images)
    times = latencies([float_session, session], images[:1])
    float_ms, ms = np.median(times, axis=0)
    print(f"accuracy         {np.mean(classes == labels):.2%}  (digits.onnx {np.mean(float_classes == labels):.2%})")
    print(f"agreement        {np.mean(classes == float_classes):.2%}")
    print(f"median latency   {ms:.3f} ms  (digits.onnx {float_ms:.3f} ms)")
    print(f"speed-up         {np.median(times[:, 0] / times[:, 1]):.2f}x")


if __name__ == "__main__":
    main()
