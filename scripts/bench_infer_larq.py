"""Inference of Larq, and of its Compute Engine, for bench_infer.py, in Pythons of their own.

    pip install tensorflow-cpu==2.15.1 larq==0.13.3
    pip install tensorflow==2.16.2 tf-keras==2.16.0 larq-compute-engine==0.16.0 "numpy<2"
    python scripts/bench_infer.py --larq-python THE_FIRST --lce-python THE_SECOND

Started by bench_infer.py with the network as JSON. Says its versions, or what is missing; then
predicts a batch for each size on stdin and answers with the number of images.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import itertools
import json
import os
import sys
import time

PROBED = 8  # images on which the engine's settings are compared
NO_DENSE = "it has no packed dense layers and multiplies these in floats"


def main() -> int:
    """Build the network, then serve."""
    net = json.loads(sys.argv[1])
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if importlib.util.find_spec("tf_keras"):  # Larq knows Keras 2 only
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries, those in C++ too, print what is no answer
    try:
        predict, notes = (engine if net["engine"] == "lce" else framework)(net)
    except ImportError as error:
        print(json.dumps({"error": str(error)}), file=answers, flush=True)
        return 0
    name = "larq-compute-engine" if net["engine"] == "lce" else "larq"
    tensorflow = importlib.import_module("tensorflow").__version__
    version = f"{name} {importlib.metadata.version(name)}, tensorflow {tensorflow}"
    print(json.dumps({"version": version, "notes": notes}), file=answers, flush=True)
    for line in sys.stdin:
        batch = int(line)
        try:
            done = len(predict(batch)) if batch else 0
        except Exception as error:
            done = " ".join(str(error).split())[:200] or type(error).__name__
        print(done, file=answers, flush=True)
    return 0


def build(net, kernel_quantizer, batch=None):
    """The network; ``batch`` fixes its batch size."""
    larq, tf = importlib.import_module("larq"), importlib.import_module("tensorflow")
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.InputLayer(net["image"], batch_size=batch)])
    for i, layer in enumerate(net["layers"]):
        options = {
            "input_quantizer": "ste_sign" if i else None,
            "kernel_quantizer": kernel_quantizer,
            "use_bias": False,
        }
        if layer["flatten"]:
            model.add(layers.Flatten())
        if layer["kind"] == "dense":
            model.add(larq.layers.QuantDense(layer["n_out"], **options))
        else:
            padding = layer["padding"].lower()
            model.add(larq.layers.QuantConv2D(layer["n_out"], 3, padding=padding, **options))
        if layer["pool"]:
            model.add(layers.MaxPool2D(2))
        model.add(layers.BatchNormalization(epsilon=net["eps"], scale=False))
    return model


def random_images(net, batch):
    numpy = importlib.import_module("numpy")
    return numpy.random.default_rng(0).integers(0, 256, (batch, *net["image"])).astype("uint8")


def framework(net):
    """Larq's layers in a ``tf.function``; weights are made ±1 beforehand, not at every call."""
    importlib.import_module("larq")
    tf = importlib.import_module("tensorflow")
    tf.config.threading.set_intra_op_parallelism_threads(net["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = build(net, None)
    for variable in model.trainable_variables:
        if "kernel" in variable.name:
            variable.assign(tf.where(variable >= 0, 1.0, -1.0))

    @tf.function
    def scores(images):
        return model(tf.cast(images, tf.float32) * (2 / 255) - 1, training=False)

    @functools.lru_cache(maxsize=1)
    def images(batch):
        return tf.constant(random_images(net, batch))

    return lambda batch: scores(images(batch)).numpy(), []


def engine(net):
    """The Compute Engine's interpreter, with those of its settings that are fastest here."""
    larq_engine = importlib.import_module("larq_compute_engine")
    module = importlib.import_module("larq_compute_engine.tflite.python.interpreter")

    def convert(batch):
        with contextlib.redirect_stderr(io.StringIO()):
            return larq_engine.convert_keras_model(build(net, "ste_sign", batch))

    def start(flatbuffer, settings):
        interpreter = module.Interpreter(flatbuffer, num_threads=net["threads"], **settings)
        return interpreter.interpreter.predict

    def scaled(batch):
        return [(random_images(net, batch) * (2 / 255) - 1).astype("float32")]

    def seconds(flatbuffer, settings, images):
        predict = start(flatbuffer, settings)
        predict(images)
        began = time.perf_counter()
        for _ in range(3):
            predict(images)
        return time.perf_counter() - began

    @functools.lru_cache(maxsize=1)
    def prepared(batch):
        flatbuffer = convert(batch)
        size = min(batch, PROBED)
        probe = flatbuffer if size == batch else convert(size)
        choices = [
            {"use_indirect_bgemm": indirect, "use_xnnpack": xnnpack}
            for indirect, xnnpack in itertools.product((False, True), repeat=2)
        ]
        best = min(choices, key=lambda settings: seconds(probe, settings, scaled(size)))
        return start(flatbuffer, best), scaled(batch)

    def predict(batch):
        run, images = prepared(batch)
        return run(images)[0]

    dense = any(layer["kind"] == "dense" for layer in net["layers"])
    return predict, [NO_DENSE] if dense else []


if __name__ == "__main__":
    sys.exit(main())
