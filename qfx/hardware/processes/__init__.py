"""The kinds of processes that a design is made of, a file each. What a kind is asked is in ``process.py``; a new one is a file and an entry here."""

from __future__ import annotations

from qfx.hardware.processes.binary import Binary as Binary
from qfx.hardware.processes.concat import Concat as Concat
from qfx.hardware.processes.fork import Fork as Fork
from qfx.hardware.processes.matmul import MatMul as MatMul
from qfx.hardware.processes.matvec import MatVec as MatVec
from qfx.hardware.processes.memory import FromMemory as FromMemory
from qfx.hardware.processes.memory import Spill as Spill
from qfx.hardware.processes.memory import Tiles as Tiles
from qfx.hardware.processes.pad import PadFrame as PadFrame
from qfx.hardware.processes.permute import Permute as Permute
from qfx.hardware.processes.phases import Interleave as Interleave
from qfx.hardware.processes.pointwise import Pointwise as Pointwise
from qfx.hardware.processes.pointwise import Regrid as Regrid
from qfx.hardware.processes.pool import Pool as Pool
from qfx.hardware.processes.ports import FromPort as FromPort
from qfx.hardware.processes.ports import JoinPort as JoinPort
from qfx.hardware.processes.ports import SplitPort as SplitPort
from qfx.hardware.processes.ports import ToPort as ToPort
from qfx.hardware.processes.process import Process as Process
from qfx.hardware.processes.repeat import Repeat as Repeat
from qfx.hardware.processes.rewidth import Rewidth as Rewidth
from qfx.hardware.processes.rows import Deal as Deal
from qfx.hardware.processes.rows import Gather as Gather
from qfx.hardware.processes.rows import RowWidth as RowWidth
from qfx.hardware.processes.rows import Scatter as Scatter
from qfx.hardware.processes.rows import WideWindow as WideWindow
from qfx.hardware.processes.selecting import Embedding as Embedding
from qfx.hardware.processes.selecting import Top as Top
from qfx.hardware.processes.sequences import Enter as Enter
from qfx.hardware.processes.sequences import Keep as Keep
from qfx.hardware.processes.sequences import Leave as Leave
from qfx.hardware.processes.sequences import Loop as Loop
from qfx.hardware.processes.sequences import Recall as Recall
from qfx.hardware.processes.slice import SliceFrame as SliceFrame
from qfx.hardware.processes.stretch import Stretch as Stretch
from qfx.hardware.processes.take import TakeFrame as TakeFrame
from qfx.hardware.processes.window import WholeWindow as WholeWindow
from qfx.hardware.processes.window import Window as Window

PROCESSES: tuple[type[Process], ...] = (
    FromPort, ToPort, Fork, Rewidth, RowWidth, Gather, Scatter, Deal, Window, WholeWindow, WideWindow,
    MatVec, Pool, Pointwise, Regrid, Binary, Concat, Permute, PadFrame, SliceFrame, Repeat, Stretch, Interleave,
    MatMul, FromMemory, Tiles, Spill,
    TakeFrame, SplitPort, JoinPort,
    Embedding, Top,
    Loop, Enter, Leave, Recall, Keep,
)  # fmt: skip
"""Every kind, for tests that go over all of them; nothing is looked up here."""
