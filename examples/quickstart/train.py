"""Train the quick-start model and write every data file of this folder.

    pip install jax numpy onnx onnxruntime pillow scikit-learn
    python train.py

Data: the 1797 handwritten digits bundled with scikit-learn, scaled up from 8x8 to 32x32 pixels; 300 of them are
held out for the test. Network: a small CNN with the layer kinds that matter to a quantizer (see `BLOCKS`).
Every source of randomness is seeded; a run takes a few minutes on one core and writes

    digits.onnx           float model, BatchNormalization kept as nodes of its own
    calibration.npz       64 training pictures, key `image`, float32 [64, 1, 32, 32]
    calibration-images/   the same 64 pictures in the same order, 8-bit grey PNG
    test.npz              300 test pictures (key `image`) and their classes (key `labels`)
"""

import os

os.environ["NPROC"] = "1"  # one thread in XLA: the order of sums, hence the weights, must not depend on the core count

import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from pictures import SEED, SIDE, as_input, augment, load_data

HERE = Path(__file__).resolve().parent
CALIBRATION_SAMPLES = 64
EPOCHS, BATCH, PEAK_RATE, MOMENTUM, WEIGHT_DECAY = 16, 64, 0.1, 0.9, 5e-4
BN_EPSILON, BN_MOMENTUM = 1e-5, 0.9

# Convolution blocks: name -> (kernel side, input channels, output channels, groups). Each is Conv (no bias) then
# BatchNormalization, then Relu except before the residual Add.
BLOCKS = {
    "stem": (3, 1, 32, 1),
    "widen": (3, 32, 64, 1),
    "residual1": (3, 64, 64, 1),
    "residual2": (3, 64, 64, 1),
    "depthwise": (3, 64, 64, 64),
    "pointwise": (1, 64, 64, 1),
}
CLASSES = 10


# ---------------------------------------------------------------- network


def initial_state(rng):
    """He-initialised parameters, and the running statistics of BatchNormalization."""
    params, stats = {}, {}
    for name, (k, c_in, c_out, groups) in BLOCKS.items():
        fan_in = k * k * c_in // groups
        weight = rng.normal(size=(k, k, c_in // groups, c_out)) * np.sqrt(2.0 / fan_in)
        params[name] = {
            "weight": jnp.asarray(weight, jnp.float32),  # HWIO
            "scale": jnp.ones(c_out),
            "shift": jnp.zeros(c_out),
        }
        stats[name] = {"mean": jnp.zeros(c_out), "var": jnp.ones(c_out)}
    features = BLOCKS["pointwise"][2]
    weight = rng.normal(size=(features, CLASSES)) / np.sqrt(features)
    params["classifier"] = {"weight": jnp.asarray(weight, jnp.float32), "bias": jnp.zeros(CLASSES)}
    return params, stats


def forward(params, stats, images, training):
    """Logits of NHWC images, and the updated running statistics (unchanged unless `training`)."""
    new_stats = {}

    def block(name, x):
        p, s = params[name], stats[name]
        groups, layout = BLOCKS[name][3], ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(
            x, p["weight"], (1, 1), "SAME", dimension_numbers=layout, feature_group_count=groups
        )
        mean, var = s["mean"], s["var"]
        if training:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            s = {
                "mean": BN_MOMENTUM * s["mean"] + (1 - BN_MOMENTUM) * mean,
                "var": BN_MOMENTUM * s["var"] + (1 - BN_MOMENTUM) * var,
            }
        new_stats[name] = s
        return (x - mean) * jax.lax.rsqrt(var + BN_EPSILON) * p["scale"] + p["shift"]

    x = jax.nn.relu(block("stem", images))
    x = jax.nn.relu(block("widen", x))
    x = jax.nn.relu(x + block("residual2", jax.nn.relu(block("residual1", x))))
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))  # MaxPool 2x2, stride 2
    x = jax.nn.relu(block("depthwise", x))
    x = jax.nn.relu(block("pointwise", x))
    features = x.mean((1, 2))  # GlobalAveragePool
    return features @ params["classifier"]["weight"] + params["classifier"]["bias"], new_stats


@jax.jit
def train_step(params, velocity, stats, images, labels, rate):
    """One step of Nesterov momentum on the cross entropy, with decoupled weight decay of the weights."""

    def loss(params):
        logits, new_stats = forward(params, stats, images, training=True)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean(), new_stats

    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, gradient)

    def update(path, p, v, g):
        decay = WEIGHT_DECAY if path[-1].key == "weight" else 0.0
        return p - rate * (MOMENTUM * v + g + decay * p)

    params = jax.tree_util.tree_map_with_path(update, params, velocity, gradient)
    return params, velocity, stats, value


def train(pictures, labels):
    """Trains from scratch on u8 pictures; returns parameters and running statistics."""
    rng = np.random.default_rng(SEED)
    params, stats = initial_state(rng)
    velocity = jax.tree.map(jnp.zeros_like, params)
    steps = len(pictures) // BATCH
    for epoch in range(EPOCHS):
        start, total, order = time.time(), 0.0, rng.permutation(len(pictures))
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            images = as_input(augment(pictures[chosen], rng)).transpose(0, 2, 3, 1)
            progress = (epoch * steps + step) / (EPOCHS * steps)
            warm_up = min(1.0, progress * EPOCHS)  # over the first epoch
            rate = PEAK_RATE * warm_up * 0.5 * (1 + np.cos(np.pi * progress))
            params, velocity, stats, loss = train_step(params, velocity, stats, images, labels[chosen], rate)
            total += float(loss)
        print(f"epoch {epoch + 1:2}/{EPOCHS}  loss {total / steps:.4f}  {time.time() - start:.1f} s", flush=True)
    return params, stats


# ---------------------------------------------------------------- files


def export(params, stats):
    """The trained network as an ONNX model: opset 17, NCHW, batch dimension `N`, BatchNormalization unfolded."""
    nodes, initializers = [], []

    def constant(name, array):
        initializers.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def node(op_type, inputs, name, output=None, **attributes):
        output = output or f"{name}_out"
        nodes.append(helper.make_node(op_type, inputs, [output], name=name, **attributes))
        return output

    def block(name, x, relu=True):
        k, _, _, groups = BLOCKS[name]
        p, s = params[name], stats[name]
        weight = constant(f"{name}_conv_weight", np.transpose(p["weight"], (3, 2, 0, 1)))  # HWIO -> OIHW
        geometry = {"kernel_shape": [k, k], "pads": [k // 2] * 4, "strides": [1, 1], "group": groups}
        x = node("Conv", [x, weight], f"{name}_conv", **geometry)
        tensors = [("scale", p["scale"]), ("shift", p["shift"]), ("mean", s["mean"]), ("var", s["var"])]
        inputs = [x] + [constant(f"{name}_bn_{part}", array) for part, array in tensors]
        x = node("BatchNormalization", inputs, f"{name}_bn", epsilon=BN_EPSILON)
        return node("Relu", [x], f"{name}_relu") if relu else x

    shortcut = block("widen", block("stem", "image"))
    x = block("residual2", block("residual1", shortcut), relu=False)
    x = node("Add", [shortcut, x], "residual_add")
    x = node("Relu", [x], "residual_relu")
    x = node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = block("pointwise", block("depthwise", x))
    x = node("GlobalAveragePool", [x], "average")
    x = node("Flatten", [x], "flatten", axis=1)
    weight = constant("classifier_weight", np.transpose(params["classifier"]["weight"]))
    bias = constant("classifier_bias", params["classifier"]["bias"])
    node("Gemm", [x, weight, bias], "classifier", output="logits", transB=1)

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        initializers,
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8, producer_name="squint-quickstart")
    onnx.checker.check_model(model, full_check=True)
    return model


def write_data(train_pictures, train_labels, test_pictures, test_labels):
    """Writes the calibration set in both forms, and the test set."""
    pictures, labels = train_pictures[:CALIBRATION_SAMPLES], train_labels[:CALIBRATION_SAMPLES]
    np.savez_compressed(HERE / "calibration.npz", image=as_input(pictures))
    folder = HERE / "calibration-images"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for index, (picture, label) in enumerate(zip(pictures, labels)):
        Image.fromarray(picture).save(folder / f"{index:02}-digit-{label}.png", optimize=True)
    np.savez_compressed(HERE / "test.npz", image=as_input(test_pictures), labels=test_labels.astype(np.int64))


def main():
    train_pictures, test_pictures, train_labels, test_labels = load_data()
    write_data(train_pictures, train_labels, test_pictures, test_labels)
    params, stats = train(train_pictures, train_labels)
    onnx.save(export(params, stats), HERE / "digits.onnx")

    images = as_input(test_pictures)
    expected = np.asarray(forward(params, stats, images.transpose(0, 2, 3, 1), training=False)[0])
    session = onnxruntime.InferenceSession(HERE / "digits.onnx", providers=["CPUExecutionProvider"])
    actual = session.run(None, {"image": images})[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)
    print(f"test accuracy {np.mean(actual.argmax(1) == test_labels):.2%}")
    print(f"largest difference between ONNX Runtime and the trained network {np.abs(actual - expected).max():.1e}")


if __name__ == "__main__":
    main()
