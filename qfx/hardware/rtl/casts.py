"""One cast as Verilog (IEEE 1364-2001): every mode of rounding and overflow, as ``qfx.fixed.reference`` defines them. Text only."""

from __future__ import annotations

from collections.abc import Iterator

from qfx.fixed.type import FixedType, OMode, QMode


def lines(name: str, operand: str, width: int, drop: int, bounds: tuple[int, int] | None, to: FixedType) -> Iterator[str]:
    """Wires that are called after ``name``; the last one, ``<name>_y``, has the ``to.width`` bits of the cast's raw.

    ``operand``: a signed expression of ``width`` bits, its raw ``drop`` binary places finer than ``to`` (negative: coarser), which is within
    ``bounds``; None: nothing is known, and nothing above the bits that stay may be looked at (AP_WRAP, N = 0).
    """
    if drop > 0:
        wide = max(width, drop + 1)
        yield f"wire signed [{wide - 1}:0] {name}_x = {operand};"
        up = _up(f"{name}_x", wide, drop, to.q)
        floor, width = f"$signed({name}_x[{wide - 1}:{drop}])", wide - drop
        rounded = floor if up is None else f"{floor} + $signed({{1'b0, {up}}})"
        width += up is not None
        if bounds is not None:
            bounds = bounds[0] >> drop, (bounds[1] >> drop) + (up is not None)
    else:
        floor = rounded = f"{operand} <<< {-drop}" if drop else operand
        width -= drop
        if bounds is not None:
            bounds = bounds[0] << -drop, bounds[1] << -drop
    above = to.width - to.signed  # bits below the sign of a raw that fits
    width = max(width, above + 2, to.width + 1)
    yield f"wire signed [{width - 1}:0] {name}_r = {rounded};"
    kept = f"{name}_r[{to.width - 1}:0]"
    over = bounds is None or bounds[1] > to.max_raw
    under = bounds is None or bounds[0] < to.min_raw
    if (to.o is OMode.WRAP and to.n == 0) or not (over or under):
        yield f"wire [{to.width - 1}:0] {name}_y = {kept};"
        return
    sign, high = f"{name}_r[{width - 1}]", f"{name}_r[{width - 2}:{above}]"
    if over:
        yield f"wire {name}_over = ~{sign} & (|{high});"
    if under:
        symmetric = f" | ~(|{name}_r[{above - 1}:0])" if to.min_raw == -to.max_raw and above else ""
        yield f"wire {name}_under = {sign}" + (f" & (~(&{high}){symmetric});" if to.signed else ";")
    if to.o in (OMode.WRAP, OMode.WRAP_SM):
        if to.o is OMode.WRAP_SM and to.n == 0:
            yield f"wire signed [{max(width, to.width + 1) - 1}:0] {name}_f = {floor};"
        yield from _wrapped(name, kept, sign, to)
        outside = " | ".join(f"{name}_{side}" for side, there in (("over", over), ("under", under)) if there)
        yield f"wire [{to.width - 1}:0] {name}_y = ({outside}) ? {name}_w : {kept};"
        return
    high_raw, low_raw = (0, 0) if to.o is OMode.SAT_ZERO else (to.max_raw, to.min_raw)
    arms = [(f"{name}_over", high_raw)] * over + [(f"{name}_under", low_raw)] * under
    chosen = "".join(f"{condition} ? {to.width}'d{raw % (1 << to.width)} : " for condition, raw in arms)
    yield f"wire [{to.width - 1}:0] {name}_y = {chosen}{kept};"


def _up(x: str, width: int, drop: int, q: QMode) -> str | None:
    """The bit that rounding adds to the floor of ``x`` without its ``drop`` lowest bits; None where it adds none."""
    if q is QMode.TRN:
        return None
    half, sign, last = f"{x}[{drop - 1}]", f"{x}[{width - 1}]", f"{x}[{drop}]"
    if q is QMode.TRN_ZERO:
        return f"{sign} & (|{x}[{drop - 1}:0])"
    if q is QMode.RND:
        return half
    on_tie = {QMode.RND_ZERO: sign, QMode.RND_MIN_INF: "", QMode.RND_INF: f"~{sign}", QMode.RND_CONV: last}[q]
    terms = ([f"(|{x}[{drop - 2}:0])"] if drop > 1 else []) + ([on_tie] if on_tie else [])
    return f"{half} & ({' | '.join(terms)})" if terms else "1'b0"


def _wrapped(name: str, kept: str, sign: str, to: FixedType) -> Iterator[str]:
    """``<name>_w``: what becomes of a number out of range under AP_WRAP with N > 0 and under AP_WRAP_SM, bit by bit from the highest one."""
    bit = [f"{name}_r[{place}]" for place in range(to.width)]
    if to.o is OMode.WRAP_SM:
        inverted = f"{bit[-1]} != {name}_f[{to.width}]" if to.n == 0 else f"{bit[to.width - to.n]} {'!=' if to.n == 1 else '=='} {sign}"
        yield f"wire [{to.width - 1}:0] {name}_i = ({inverted}) ? ~{kept} : {kept};"
        bit = [f"{name}_i[{place}]" for place in range(to.width)]
    if to.n and not to.signed:
        bit[to.width - to.n :] = ["1'b1"] * to.n
    elif to.n:
        bit[to.width - to.n : to.width - 1] = [f"~{sign}"] * (to.n - 1)
        bit[-1] = sign
    yield f"wire [{to.width - 1}:0] {name}_w = {{{', '.join(reversed(bit))}}};"
