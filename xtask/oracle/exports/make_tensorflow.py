"""Makes the export of TensorFlow's training with quantizers that lies in this folder, through tf2onnx.

usage: make_tensorflow.py FOLDER

tensorflow.onnx comes with tensorflow.npz: inputs `x`, and what the network makes of them in TensorFlow, `y`.
"""

import os
import sys
from pathlib import Path

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf2onnx
import tf_keras as keras

CHANNELS, SIZE, BATCH, SAMPLES = 16, 8, 4, 64


def network() -> keras.Model:
    """A convolution with BatchNormalization, a depthwise one, a residual one, an average, a dense layer."""
    layers = keras.layers
    x = pictures = keras.Input((SIZE, SIZE, CHANNELS))
    x = layers.Conv2D(CHANNELS, 3, padding="same", use_bias=False)(x)
    x = skip = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.Add()([layers.Conv2D(CHANNELS, 1)(x), skip])
    return keras.Model(pictures, layers.Dense(CHANNELS)(layers.GlobalAveragePooling2D()(x)))


def main() -> int:
    """Trains for an epoch on random pictures, and exports."""
    folder = Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    net = tfmot.quantization.keras.quantize_model(network())
    net.compile("sgd", "mse")
    pictures = np.random.default_rng(0).standard_normal((SAMPLES, SIZE, SIZE, CHANNELS)).astype(np.float32)
    net.fit(pictures, np.zeros((SAMPLES, CHANNELS), np.float32), batch_size=BATCH, verbose=0)
    signature = (tf.TensorSpec((None, SIZE, SIZE, CHANNELS), tf.float32, name="x"),)
    tf2onnx.convert.from_keras(net, input_signature=signature, opset=17, output_path=str(folder / "tensorflow.onnx"))
    some = pictures[:BATCH]
    np.savez_compressed(folder / "tensorflow.npz", x=some, y=net.predict(some, verbose=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
