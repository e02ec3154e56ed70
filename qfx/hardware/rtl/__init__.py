"""Designs as Verilog of qfx's own, without a vendor's tool: written, simulated with Verilator, mapped by Yosys."""
