"""What a network weighs: parameters by bit width, memory when deployed, multiply-accumulates.

Counted as Larq's ``summary`` does: batch norm deployed is two numbers per channel (mean with
beta, spread with gamma), and a product has the precision of its wider operand, so a first layer
with real inputs and binary kernels counts as 32-bit. Unlike Larq's, it counts the parameters and
multiply-accumulates of every kind of layer (also transposed, locally connected and recurrent ones,
each called as often as it is), both products of separable convolutions at their own precision,
and all trainable parameters, those of quantizers and activations too.
"""

from binjax.summary.cost import Products, arithmetic_effort, energy_model, operations
from binjax.summary.count import Row, Summary, summarize
from binjax.summary.show import as_csv, table

__all__ = [
    "Products",
    "Row",
    "Summary",
    "arithmetic_effort",
    "as_csv",
    "energy_model",
    "operations",
    "summarize",
    "table",
]
