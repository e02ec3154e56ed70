"""Operations taken apart, by kind; ``qfx.capture.decompositions`` has the table."""
