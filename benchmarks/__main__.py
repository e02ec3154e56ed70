"""``python -m benchmarks``: the training step."""

from benchmarks.train_step import main

main()
