"""What a network weighs: parameters by bit width, memory, multiply-accumulates, activations.

Counted as Larq's ``summary`` does: batch norm deployed is two numbers per channel (mean with
beta, spread with gamma), and a product has the precision of its wider operand, so a first layer
with real inputs and binary kernels counts as 32-bit. What Larq's (0.13.3, ``larq/models.py``) has
wrong is right here:

* Its "trainable" leaves out beta and gamma of batch norms; here all trainable variables count,
  those of quantizers and activations too.
* It gives no MACs ("?") for types it does not know and multiplies a transposed convolution's kernel
  by its outputs; here every type has them: transposed (by inputs), locally connected,
  three-dimensional and recurrent ones (at every step in time), and ordinary products of modules
  that are not ours.
* It takes the input's precision for both products of a separable convolution; here the second
  one's is that of what stands between the two.
* ``include_macs=False`` takes MACs from its totals only; ``macs=False`` here from the rows too.

OPs, ACE, a model of energy, Keras's own count and activations in training and inference are beside
them. Rows come in the order of calls.
"""

from binjax.summary.activations import Activations
from binjax.summary.cost import Products, arithmetic_effort, energy_model, operations
from binjax.summary.count import Summary, summarize
from binjax.summary.rows import Row
from binjax.summary.show import as_csv, table

__all__ = [
    "Activations",
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
