"""What puts the phases of a transposed convolution in their places."""

from qfx.hardware.processes.phases.interleave import Interleave as Interleave
from qfx.hardware.processes.phases.interleave import in_place as in_place
