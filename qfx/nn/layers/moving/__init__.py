"""Layers that move numbers by constant indices, and the operations of torch that become them, one file a family."""
