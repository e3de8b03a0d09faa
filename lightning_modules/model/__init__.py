"""Networks: floats [B, *input_shape] in, logits or regression values [B, num_outputs] out.

Every class takes `input_shape` (one sample, without the batch) and `num_outputs`, which the run fills in from
the data, and its own arguments. A shape that a network cannot take is a UserError when it is built.
"""
