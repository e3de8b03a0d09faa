"""Unstructured and N:M pruning: scores of weights, masks from scores, and the stages that apply them."""
