"""Networks in trainable fixed point: quantizers with learned binary points, exact layers, and what makes them of a recorded model."""
