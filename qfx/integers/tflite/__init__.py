"""TFLite models: integers in, the same integers out."""

from qfx.integers.tflite.reading import read_tflite as read_tflite
