"""Operations taken apart, by kind; ``qfx.capture.apart.decompositions`` has the table."""
