"""``python -m benchmarks.calibration``: measures the arithmetic pieces again with Yosys and rewrites ``pieces.csv``."""

from benchmarks.calibration.measure import main

main()
