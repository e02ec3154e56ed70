"""A quantized model as two operators of torch, forward and backward, for who takes operators alone: ``torch.compile`` and ``torch.func``."""
