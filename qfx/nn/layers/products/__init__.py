"""Sums of products beyond the layers with weights: matrix products of two values, and products with tensors that a model holds."""
