"""The old name of ``qfx.hardware``, for programs that were written for it: ``csim``, ``project`` and ``schedule``. Nothing in qfx uses it."""
