"""Training steps of Larq for bench_train.py, in a Python of its own (Larq needs Keras 2).

    pip install tensorflow-cpu==2.15.1 larq==0.13.3
    python scripts/bench_train.py --larq-python THAT_PYTHON

Started by bench_train.py with the network as JSON; makes a step for each line on stdin and answers
with its loss.
"""

from __future__ import annotations

import json
import sys


def main() -> int:
    """Build the network, then serve."""
    net = json.loads(sys.argv[1])
    import larq as lq
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(net["threads"])
    keras = tf.keras
    binary = {"kernel_quantizer": "ste_sign", "kernel_constraint": "weight_clip", "use_bias": False}
    model = keras.Sequential([keras.layers.InputLayer(net["image"])])
    for i, layer in enumerate(net["layers"]):
        options = dict(binary, input_quantizer="ste_sign" if i else None)
        if layer["flatten"]:
            model.add(keras.layers.Flatten())
        if layer["kind"] == "dense":
            model.add(lq.layers.QuantDense(layer["n_out"], **options))
        else:
            padding = layer["padding"].lower()
            model.add(lq.layers.QuantConv2D(layer["n_out"], 3, padding=padding, **options))
        if layer["pool"]:
            model.add(keras.layers.MaxPool2D(2))
        model.add(
            keras.layers.BatchNormalization(
                momentum=net["momentum"], epsilon=net["eps"], scale=layer["scale"]
            )
        )
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (net["batch"], *net["image"])) * (2 / 255) - 1
    images = images.astype(np.float32)
    targets = 2 * np.eye(10, dtype=np.float32)[rng.integers(0, 10, net["batch"])] - 1
    images, targets = tf.constant(images), tf.constant(targets)

    # Not train_on_batch: it makes a tf.data.Dataset of its batch at every call, milliseconds.
    @tf.function  # type: ignore[untyped-decorator]
    def step(images, targets):  # type: ignore[no-untyped-def]
        with tf.GradientTape() as tape:
            scores = model(images, training=True)
            loss = tf.reduce_mean(tf.square(tf.maximum(0.0, 1.0 - targets * scores)))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    for _ in sys.stdin:
        print(float(step(images, targets)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
