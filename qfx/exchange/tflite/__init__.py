"""TFLite models: integers in, the same integers out."""

from qfx.exchange.tflite.reading import read_tflite as read_tflite
