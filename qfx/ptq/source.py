"""The earlier name of ``qfx.capture.source``."""

from qfx.capture.source import check_runs as check_runs
from qfx.capture.source import from_factory as from_factory
from qfx.capture.source import load_model as load_model
from qfx.capture.source import use_current_folder as use_current_folder
