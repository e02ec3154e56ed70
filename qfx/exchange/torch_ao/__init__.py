"""Quantized models of PyTorch's own tools: PT2E of torchao, ``torch.ao.quantization``, and files of their exported programs."""
