"""A run of ``qfx ptq``: its passes one after the other, resumable in between."""
