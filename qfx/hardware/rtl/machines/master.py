"""An AXI4 master that reads a layer's weights from memory, in Verilog: what ``qfx::from_memory`` is in hardware, where a pointer is a port."""

from __future__ import annotations

from collections.abc import Iterator

from qfx.hardware.processes.memory.from_memory import BURST_BEATS, OUTSTANDING, FromMemory

MODULE = "qfx_master"
"""The module of all masters."""

TEXT = """// Reads B words of N bits from `address` on, again and again, and gives the lowest W bits of each: through the read channels of AXI4, in
// bursts of at most L words, with at most L * O words asked for that have not come. R words are those of a frame, and P cycles lie between the last
// of one and the first of the next, at least one. What has come and finds no room waits in front of rready.
module qfx_master #(parameter N = 64, W = 64, B = 1, R = 1, L = 64, O = 4, P = 1) (
  input wire clk, input wire rst, input wire [63:0] address,
  output wire [63:0] araddr, output wire [7:0] arlen, output wire [2:0] arsize, output wire [1:0] arburst, output wire arvalid, input wire arready,
  input wire [N-1:0] rdata, input wire rvalid, output wire rready,
  output wire [W-1:0] put, output wire put_valid, input wire put_ready
);
reg awake;
reg [31:0] next, given;
reg [15:0] under_way;
reg [7:0] idle;
wire [31:0] left = B - next, size = left < L ? left : L;
wire asks = arvalid & arready, comes = rvalid & rready;
assign araddr = address + next * (N / 8);
assign arlen = size - 1;
assign arsize = $clog2(N / 8);
assign arburst = 1;
assign arvalid = awake & under_way + size <= L * O;
assign put = rdata[W-1:0];
assign put_valid = awake & rvalid & idle == 0;
assign rready = awake & put_ready & idle == 0;
always @(posedge clk)
  if (rst) begin awake <= 0; next <= 0; given <= 0; under_way <= 0; idle <= 0; end
  else begin
    awake <= 1;
    if (asks) next <= next + size == B ? 0 : next + size;
    under_way <= under_way + (asks ? size : 0) - comes;
    if (idle != 0) idle <= idle - 1;
    else if (comes) begin
      given <= given == R - 1 ? 0 : given + 1;
      if (given == R - 1) idle <= P - 1;
    end
  end
endmodule
"""

_CHANNEL = (
    ("araddr", "output", 64), ("arlen", "output", 8), ("arsize", "output", 3), ("arburst", "output", 2), ("arvalid", "output", 1),
    ("arready", "input", 1), ("rdata", "input", 0), ("rvalid", "input", 1), ("rready", "output", 1),
)  # fmt: skip


def ports(master: FromMemory) -> Iterator[str]:
    """Those of the top module."""
    yield f"  input wire [63:0] {master.port}_address"
    for name, way, bits in _CHANNEL:
        yield f"  {way} wire [{(bits or master.bits) - 1}:0] m_axi_{master.port}_{name}"


def instance(master: FromMemory, width: int, stream: str, pause: int) -> str:
    """The master that fills the FIFO ``stream`` with words of ``width`` bits."""
    sizes = {"N": master.bits, "W": width, "B": master.beats, "R": master.beats * master.repeats, "L": BURST_BEATS, "O": OUTSTANDING, "P": pause}
    links = [".clk(clk)", ".rst(rst)", f".address({master.port}_address)"]
    links += [f".{name}(m_axi_{master.port}_{name})" for name, _, _ in _CHANNEL]
    links += [f".put{part}({stream}_put{part})" for part in ("", "_valid", "_ready")]
    parameters = ", ".join(f".{name}({value})" for name, value in sizes.items())
    return f"{MODULE} #({parameters}) i_{master.name} (\n  {', '.join(links)});"
