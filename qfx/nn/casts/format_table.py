"""One table of the formats of a model: what printing it shows, in a terminal and in a notebook."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qfx.fixed.type import FixedType
from qfx.pages.notebook import notebook_table, text_table

_HEAD = ("layer", "kind", "weight", "bias", "result", "others")
_ROLES = {"weight": 2, "bias": 3, "output": 4, "": 4}


@dataclass(frozen=True, slots=True)
class Format:
    """A cast: its ``layer`` and its ``role`` there ("weight", "bias", "output", any other word, "" of an input), its type, the integer bits of every
    binary point, and the mean word length where it is learned. ``off``: it lets numbers pass."""

    layer: str
    role: str
    type: FixedType
    int_bits: tuple[int, ...]
    learned_bits: float | None = None
    off: bool = False

    def text(self, modes: tuple[str, ...]) -> str:
        """As short as can be: the modes where they are not ``modes``, integer bits and word lengths where there are several."""
        least, most = min(self.int_bits), max(self.int_bits)
        kind = "fixed" if self.type.signed else "ufixed"
        found = f"{kind}<{self.type.width},{least if least == most else f'{least}..{most}'}>"
        found += f" x {len(self.int_bits)}" if len(self.int_bits) > 1 else ""
        found += f" {self.learned_bits:.2f} bits" if self.learned_bits is not None else ""
        found += "" if self.modes == modes else f" {' '.join(self.modes)}"
        return f"({found})" if self.off else found

    @property
    def modes(self) -> tuple[str, ...]:
        return (self.type.q.value.removeprefix("AP_"), self.type.o.value.removeprefix("AP_"))


@dataclass(frozen=True, slots=True)
class FormatTable:
    """The casts in the order of the network. ``kinds``: of each layer in that order, what it is; ``notes``: of a layer that has more to say."""

    casts: tuple[Format, ...]
    kinds: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def modes(self) -> tuple[str, ...]:
        """Those of most casts."""
        return Counter(cast.modes for cast in self.casts).most_common(1)[0][0] if self.casts else ()

    @property
    def title(self) -> str:
        said = f"quantized model, {len(self.casts)} casts"
        said += f" ({' '.join(self.modes)} where nothing else is said)" if self.casts else ""
        off = sum(cast.off for cast in self.casts)
        return said + (f", {off} of them switched off: in brackets" if off else "")

    def rows(self) -> list[tuple[str, ...]]:
        """A row for each layer that has a cast, in the order of ``_HEAD``."""
        kinds, modes = dict(self.kinds), self.modes
        found: dict[str, list[str]] = {}
        for cast in self.casts:
            row = found.setdefault(cast.layer, [cast.layer, kinds.get(cast.layer, ""), "", "", "", ""])
            place = _ROLES.get(cast.role)
            if place is not None and not row[place]:
                row[place] = cast.text(modes)
            else:
                row[5] = ", ".join(filter(None, (row[5], f"{cast.role} {cast.text(modes)}")))
        return [tuple(row) for row in found.values()]

    def __str__(self) -> str:
        notes = "".join(f"{layer}: {note}\n" for layer, note in self.notes)
        return f"{self.title}\n{text_table(_HEAD, self.rows())}{notes}".rstrip("\n")

    def html(self) -> str:
        """For notebooks."""
        rows = self.rows()
        shown = [column for column in range(len(_HEAD)) if any(row[column] for row in rows)]
        note = "; ".join(f"{layer}: {note}" for layer, note in self.notes)
        return notebook_table(self.title, [_HEAD[c] for c in shown], [[row[c] for c in shown] for row in rows], note=note)
