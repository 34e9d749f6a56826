"""Fine-tune the quick-start digits model with its quantizers in it.

    squint qat export examples/quickstart/digits.onnx -o digits.qat.onnx \
        --data examples/quickstart/calibration.npz --weight-bits 4
    pip install torch onnx numpy scikit-learn
    python examples/qat/train_digits.py digits.qat.onnx -o digits.trained.onnx
    squint qat convert digits.trained.onnx -o digits.int8.onnx

Weights, biases and scales are trained on the 1497 training pictures of `examples/quickstart`; the test pictures are not
looked at, and chose nothing. All seeds are fixed; on another machine sums may round differently.
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch

from onnx_torch import OnnxModule

sys.path.append(str(Path(__file__).resolve().parent.parent / "quickstart"))
from pictures import as_input, augment, load_data

SEED, BATCH = 11, 64
RATE = 3e-3
"""Of the mean magnitude of each tensor: how far a step goes in it, at most."""


def train(net, pictures, labels, epochs):
    """Adam (Kingma and Ba 2015) on the cross entropy, with a cosine schedule."""
    # Folded weights, biases and scales differ by orders of magnitude, and Adam's steps do not depend on gradients'.
    rng = np.random.default_rng(SEED)
    torch.manual_seed(SEED)
    magnitude = [p.detach().abs().mean().item() for p in net.trained]
    groups = [{"params": [p], "lr": RATE * m} for p, m in zip(net.trained, magnitude) if m > 0]
    optimizer = torch.optim.Adam(groups)
    steps = len(pictures) // BATCH
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / (epochs * steps)))
    )
    net.train()
    for epoch in range(epochs):
        start, total, order = time.time(), 0.0, rng.permutation(len(pictures))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            images = torch.from_numpy(as_input(augment(pictures[chosen], rng)))
            loss = torch.nn.functional.cross_entropy(net(images), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            net.keep_scales_positive()
            total += loss.item()
        print(f"epoch {epoch + 1}/{epochs}  loss {total / steps:.4f}  {time.time() - start:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what `squint qat export` wrote")
    parser.add_argument("-o", "--output", required=True, help="where the trained model goes")
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    pictures, _, labels, _ = load_data()
    net = OnnxModule(arguments.model)
    train(net, pictures, labels.astype(np.int64), arguments.epochs)
    net.save(arguments.output)


if __name__ == "__main__":
    main()
