"""Networks: floats [B, *input_shape] in, logits or regression values [B, num_outputs] out.

Every class takes `input_shape` (of one sample) and `num_outputs`, which the run fills in from the data, and its own
arguments. It raises UserError on construction for shapes that it does not support.
"""
