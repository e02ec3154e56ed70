"""Streaming designs as hardware without a vendor's tool: the processes of generated C++ through LLVM IR to machines, and to Verilog."""
