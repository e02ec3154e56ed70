"""Words over rows of numbers that do not fill them (foldings that need not divide), and words of several pixels
side by side."""

from qfx.hardware.processes.rows.abreast import Deal as Deal
from qfx.hardware.processes.rows.abreast import Gather as Gather
from qfx.hardware.processes.rows.abreast import Scatter as Scatter
from qfx.hardware.processes.rows.row_width import RowWidth as RowWidth
from qfx.hardware.processes.rows.wide_window import WideWindow as WideWindow
