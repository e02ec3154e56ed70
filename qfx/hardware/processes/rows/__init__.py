"""Words over rows of numbers that do not fill them: foldings that need not divide."""

from qfx.hardware.processes.rows.row_width import RowWidth as RowWidth
