"""A `.tflite` file read by its slots, and executed in numpy as Larq Compute Engine defines it.

Independent of binjax and of TensorFlow. Source: TensorFlow's `schema.fbs`; larq/compute-engine
`core/bconv2d/{reference,output_transform}.h`, `core/bmaxpool.h`, `core/bitpacking/bitpack.h`.
"""

import struct

import numpy as np

DTYPES = {0: np.float32, 2: np.int32, 3: np.uint8}
CODES = {
    0: "ADD",
    3: "CONV_2D",
    9: "FULLY_CONNECTED",
    17: "MAX_POOL_2D",
    18: "MUL",
    22: "RESHAPE",
    34: "PAD",
    41: "SUB",
    53: "CAST",
    60: "PADV2",
}
OPTIONS = {"CONV_2D": 1, "MAX_POOL_2D": 5, "FULLY_CONNECTED": 8, "ADD": 11, "RESHAPE": 17}
OPTIONS |= {"MUL": 21, "PAD": 22, "SUB": 28, "CAST": 37, "PADV2": 43}
BCONV = {"channels_in", "dilation_height_factor", "dilation_width_factor", "padding", "pad_values"}
BCONV |= {"fused_activation_function", "stride_height", "stride_width"}


class Table:
    """A FlatBuffer's table: fields by number."""

    def __init__(self, data, at):
        self.data, self.at = data, at

    def _number(self, form, at):
        return struct.unpack_from("<" + form, self.data, at)[0]

    def _place(self, field):
        vtable = self.at - self._number("i", self.at)
        if 4 + 2 * field >= self._number("H", vtable):
            return 0
        offset = self._number("H", vtable + 4 + 2 * field)
        return offset and self.at + offset

    def number(self, field, form, default=0):
        at = self._place(field)
        return self._number(form, at) if at else default

    def table(self, field):
        at = self._place(field)
        return Table(self.data, at + self._number("I", at)) if at else None

    def bytes(self, field, size=1):
        """Place and contents of a vector."""
        at = self._place(field)
        if not at:
            return None, b""
        at += self._number("I", at)
        n = self._number("I", at)
        return at + 4, self.data[at + 4 : at + 4 + n * size]

    def integers(self, field):
        return np.frombuffer(self.bytes(field, 4)[1], "<i4").tolist()

    def tables(self, field):
        at, raw = self.bytes(field, 4)
        offsets = np.frombuffer(raw, "<u4").tolist()
        return [Table(self.data, at + 4 * i + offset) for i, offset in enumerate(offsets)]


def parse(data):
    assert data[4:8] == b"TFL3"
    model = Table(data, struct.unpack_from("<I", data)[0])
    assert model.number(0, "I") == 3
    (graph,), buffers = model.tables(2), model.tables(4)
    assert not buffers[0].bytes(0)[1]
    codes = []
    for code in model.tables(1):
        number = code.number(3, "i")
        assert code.number(0, "b") == number
        codes.append(code.bytes(1)[1].decode() if number == 32 else CODES[number])
    tensors = []
    for tensor in graph.tables(0):
        shape, dtype = tuple(tensor.integers(0)), DTYPES[tensor.number(1, "b")]
        at, raw = buffers[tensor.number(2, "I")].bytes(0)
        if at is not None:
            assert at % 16 == 0
            assert len(raw) == np.prod(shape) * np.dtype(dtype).itemsize
            raw = np.frombuffer(raw, dtype).reshape(shape)
        tensors.append((shape, dtype, None if at is None else raw, tensor.bytes(3)[1].decode()))
    operators = []
    for op in graph.tables(3):
        code = codes[op.number(0, "I")]
        assert op.number(3, "B") == OPTIONS.get(code, 0)
        if code in OPTIONS:
            options = op.table(4)
        else:
            from flatbuffers import flexbuffers

            raw = op.bytes(5)[1]
            options = flexbuffers.Loads(bytes(raw)) if raw else {}
        operators.append((code, op.integers(1), op.integers(2), options))
    return tensors, operators, graph.integers(1), graph.integers(2)


def execute(data, images):
    tensors, operators, (first,), (last,) = parse(data)
    shape, dtype, _, _ = tensors[first]
    assert images.dtype == dtype and images.shape[1:] == shape[1:]
    values = {i: t[2] for i, t in enumerate(tensors) if t[2] is not None} | {first: images}
    for code, inputs, (output,), options in operators:
        taken = [None if i < 0 else values[i] for i in inputs]
        shape, dtype, _, _ = tensors[output]
        if code == "RESHAPE":
            found = taken[0].reshape(taken[1])
        elif code == "CAST":
            found = taken[0].astype(DTYPES[options.number(1, "b")])
        elif code == "LceDequantize":
            found = np.where(bits(taken[0], shape[-1]), np.float32(-1), np.float32(1))
        else:
            found = RUN[code](*taken, options=options, dtype=dtype)
        assert found.dtype == dtype, code
        constant = all(tensors[i][2] is not None for i in inputs)
        assert found.shape == (shape if constant else (len(images), *shape[1:])), code
        values[output] = found
    return values[last]


def bits(words, n):
    i = np.arange(n)
    return (words.view(np.uint32)[..., i // 32] >> (i % 32).astype(np.uint32)) & 1


def words(positive):
    """LCE's: 1 is -1, padding bits are 0."""
    n = positive.shape[-1]
    out = np.zeros((*positive.shape[:-1], -(-n // 32)), np.uint32)
    for i in range(n):
        out[..., i // 32] |= np.where(positive[..., i], 0, np.uint32(1 << (i % 32)))
    return out.view(np.int32)


def windows(x, kernel, strides, dilation=(1, 1), same=False):
    """Every tap's part of x: (row, column, part), outside of the image 0."""
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = x.shape[1:3]
    if same:
        out = [-(-n // s) for n, s in zip(size, strides, strict=True)]
        over = [
            max((o - 1) * s + w - n, 0) for o, s, w, n in zip(out, strides, span, size, strict=True)
        ]
        x = np.pad(x, ((0, 0), *((o // 2, o - o // 2) for o in over), (0, 0)))
    else:
        out = [(n - w) // s + 1 for n, w, s in zip(size, span, strides, strict=True)]
    for i, j in np.ndindex(*kernel):
        rows = i * dilation[0] + strides[0] * np.arange(out[0])
        columns = j * dilation[1] + strides[1] * np.arange(out[1])
        yield i, j, x[:, rows][:, :, columns]


def bconv(x, w, multiplier, bias, threshold, *, options, dtype):
    """LCE's `BConv2DReference` and what its `Prepare` checks."""
    assert set(options) == BCONV and options["fused_activation_function"] == 0
    channels, same = options["channels_in"], options["padding"] == 0
    strides = options["stride_height"], options["stride_width"]
    dilation = options["dilation_height_factor"], options["dilation_width_factor"]
    groups, outputs = -(-channels // 32) // w.shape[3], len(w)
    assert groups * w.shape[3] == x.shape[3] and (groups == 1 or channels // groups % 32 == 0)
    zeros = same and options["pad_values"] == 0
    inside = np.ones_like(x[..., :1])
    total = 0
    masks = windows(inside, w.shape[1:3], strides, dilation, same)
    for (i, j, part), (_, _, within) in zip(
        windows(x, w.shape[1:3], strides, dilation, same), masks, strict=True
    ):
        for o in range(outputs):
            group = o * groups // outputs
            own = part[..., group * w.shape[3] : (group + 1) * w.shape[3]]
            differ = np.bitwise_count((own ^ w[o, i, j]).view(np.uint32)).sum(-1, dtype=np.int64)
            if zeros:  # counted as half of the bits
                differ = np.where(within[..., 0], 2 * differ, channels // groups)
            else:
                differ = 2 * differ
            if i == j == o == 0:
                total = np.zeros((*differ.shape, outputs), np.int64)
            total[..., o] += differ
    if dtype == np.int32:
        assert not zeros and multiplier is bias is None and threshold.dtype == np.int32
        return words(~(total // 2 > threshold))
    assert threshold is None
    k = w.shape[1] * w.shape[2] * (channels // groups)
    plus = (bias.astype(np.float64) + k * multiplier.astype(np.float64)).astype(np.float32)
    return total.astype(np.float32) * -multiplier + plus


def bmaxpool(x, *, options, dtype):
    assert options["padding"] == 1
    window = options["filter_height"], options["filter_width"]
    strides = options["stride_height"], options["stride_width"]
    return np.bitwise_and.reduce([part for _, _, part in windows(x, window, strides)])


def maxpool(x, *, options, dtype):
    assert options.number(0, "b") == 1
    window = options.number(4, "i"), options.number(3, "i")
    strides = options.number(2, "i"), options.number(1, "i")
    return np.maximum.reduce([part for _, _, part in windows(x, window, strides)])


def conv2d(x, w, bias, *, options, dtype):
    strides = options.number(2, "i"), options.number(1, "i")
    dilation = options.number(5, "i", 1), options.number(4, "i", 1)
    same = options.number(0, "b") == 0
    parts = windows(x, w.shape[1:3], strides, dilation, same)
    return sum(part @ w[:, i, j].T for i, j, part in parts) + bias


def connected(x, w, bias, *, options, dtype):
    assert options.number(2, "?")
    return x @ w.T + bias


def padded(x, sides, value=None, *, options, dtype):
    return np.pad(x, sides, constant_values=0 if value is None else value.item())


RUN = {
    "LceQuantize": lambda x, **_: words(~(x < 0)),
    "LceBconv2d": bconv,
    "LceBMaxPool2d": bmaxpool,
    "MAX_POOL_2D": maxpool,
    "CONV_2D": conv2d,
    "FULLY_CONNECTED": connected,
    "PAD": padded,
    "PADV2": padded,
    "ADD": lambda x, y, **_: x + y,
    "SUB": lambda x, y, **_: x - y,
    "MUL": lambda x, y, **_: x * y,
}
