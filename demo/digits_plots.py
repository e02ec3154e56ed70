"""The pictures of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from digits_training import History
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

_FLOAT = "#444444"
_COLORS = {8: "#1b6ca8", 6: "#d9820f", 4: "#b5179e"}
_ROLES = {"weight": "#1b6ca8", "bias": "#7a5195", "scale": "#2a9d8f", "shift": "#8ab17d", "input": "#444444", "output": "#d1495b"}
_ROLE_NAMES = {
    "weight": "weights",
    "bias": "bias",
    "scale": "BatchNorm scale",
    "shift": "BatchNorm shift",
    "input": "input",
    "output": "activations",
}
_MOST_NAMED = 7
_PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
"""Behind text that may lie on a line."""


def plot_training(path: Path, float_history: History, fixed: Mapping[int, History]) -> None:
    """Loss and validation accuracy over the epochs: float first, then each word length, starting from the one before."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    start = len(float_history.loss)
    for axes, field, name in ((left, "loss", "cross-entropy on the training set (nats)"), (right, "accuracy", "accuracy on the validation set (%)")):
        values = getattr(float_history, field)
        axes.plot(range(1, start + 1), values, color=_FLOAT, marker="o", markersize=3, label="float32")
        done, last = start, values[-1]
        for bits, history in fixed.items():
            own = getattr(history, field)
            axes.axvline(done, color="#999999", linewidth=0.9, linestyle=":")
            axes.plot(range(done, done + len(own) + 1), [last, *own], color=_COLORS.get(bits), marker="o", markersize=3, label=f"{bits} bits")
            done, last = done + len(own), own[-1]
        axes.set(xlabel="epoch", ylabel=name)
        axes.grid(alpha=0.3)
    left.set_yscale("log")
    left.set_title("Training loss")
    right.set_title("Validation accuracy")
    right.set_ylim(max(0.0, min(min(h.accuracy) for h in fixed.values()) - 4.0), 100.4)
    for axes in (left, right):
        axes.annotate(
            "quantized", (start, 0.02), xycoords=("data", "axes fraction"), rotation=90, ha="right", va="bottom", color="#777777", fontsize=9
        )
    left.legend(loc="upper right", frameon=False)
    right.legend(loc="lower right", frameon=False)
    _save(figure, path, "Residual CNN on 8x8 digits: float training, then down a ladder of word lengths in fixed point")


def plot_start_and_end(path: Path, fixed: Mapping[int, History]) -> None:
    """Every quantizer's binary point before and after training, in the order of the network."""
    names = list(next(iter(fixed.values())).binary_points)
    figure, row = plt.subplots(
        1, len(fixed), figsize=(3.2 + 3.4 * len(fixed), 1.6 + 0.24 * len(names)), sharey=True, layout="constrained", squeeze=False
    )
    for axes, (bits, history) in zip(row[0], fixed.items(), strict=True):
        changed = 0
        for y, name in enumerate(names):
            first, last = history.binary_points[name][0], history.binary_points[name][-1]
            color, moved = _ROLES[_role(name)], round(first) != round(last)
            changed += moved
            axes.plot([first, last], [y, y], color=color, linewidth=2.4 if moved else 1.2, alpha=0.9 if moved else 0.5, zorder=2)
            axes.scatter(first, y, s=30, facecolor="white", edgecolor=color, linewidth=1.3, zorder=3)
            axes.scatter(last, y, s=30, color=color, zorder=4)
            if moved:
                axes.annotate(
                    f"{round(first)} → {round(last)}", (max(first, last), y), xytext=(7, 0), textcoords="offset points", va="center", fontsize=8
                )
        axes.set_title(f"{bits}-bit weights and activations\n{changed} of {len(names)} types changed", fontsize=10.5)
        axes.set_xlabel("fractional bits F")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
        axes.margins(x=0.12, y=0.02)
        axes.grid(axis="x", alpha=0.4)
        axes.grid(axis="y", alpha=0.12)
    row[0][0].set_yticks(range(len(names)), names, fontsize=8.5)
    row[0][0].invert_yaxis()
    handles = [Line2D([], [], color=_ROLES[role], marker="o", linestyle="", label=_ROLE_NAMES[role]) for role in _present(names)]
    handles += [
        Line2D([], [], color="#555555", marker="o", markerfacecolor="white", linestyle="", label="start: least error"),
        Line2D([], [], color="#555555", marker="o", linestyle="", label="end: learned"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    _save(figure, path, "Where every binary point started and where training left it")


def plot_trajectories(path: Path, fixed: Mapping[int, History]) -> None:
    """How far every binary point moved from where it started, step by step; the type changes half a bit away. Late in training all stay."""
    figure, row = plt.subplots(1, len(fixed), figsize=(2.0 + 4.3 * len(fixed), 5.2), sharey=True, layout="constrained", squeeze=False)
    for axes, (bits, history) in zip(row[0], fixed.items(), strict=True):
        epochs = [step / history.steps_per_epoch for step in range(len(next(iter(history.binary_points.values()))))]
        ends: list[tuple[float, str, str]] = []
        for name, trail in history.binary_points.items():
            moves = [value - trail[0] for value in trail]
            moved = round(trail[0]) != round(trail[-1])
            color = _ROLES[_role(name)]
            axes.plot(epochs, moves, color=color, linewidth=1.8 if moved else 0.9, alpha=1.0 if moved else 0.55)
            if moved:
                ends.append((moves[-1], name, color))
        for threshold in (-1.5, -0.5, 0.5, 1.5):
            axes.axhline(threshold, color="#999999", linewidth=0.9, linestyle="--", zorder=1)
        _label_ends(axes, epochs[-1], ends)
        axes.set(xlabel="epoch of fixed-point training", title=f"{bits}-bit weights and activations")
        axes.set_xlim(0, epochs[-1] * 1.6)  # room for the names
        axes.set_xticks([tick for tick in MaxNLocator(integer=True, nbins=6).tick_values(0, epochs[-1]) if tick <= epochs[-1]])
        axes.grid(alpha=0.25)
    reach = max(abs(v - trail[0]) for h in fixed.values() for trail in h.binary_points.values() for v in trail)
    row[0][0].set_ylim(-max(reach, 0.6) * 1.12, max(reach, 0.6) * 1.12)
    row[0][0].set_ylabel("move of the binary point (bits)\n← coarser, wider range      finer, narrower range →")
    names = list(next(iter(fixed.values())).binary_points)
    handles: list[Line2D] = [Line2D([], [], color=_ROLES[role], linewidth=2, label=_ROLE_NAMES[role]) for role in _present(names)]
    handles.append(Line2D([], [], color="#999999", linestyle="--", label="beyond this line the rounded type is another one"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
    _save(figure, path, "Binary points as they were learned (named: those that ended in another type)")


def plot_accuracy(path: Path, float_accuracy: float, fixed: Mapping[int, float], images: int) -> None:
    """Test accuracy against the word length, beside float."""
    bits = sorted(fixed)
    figure, axes = plt.subplots(figsize=(7.2, 4.6), layout="constrained")
    axes.axhspan(float_accuracy - 1.0, float_accuracy, color="#000000", alpha=0.06, zorder=0, label="within one point of float")
    axes.axhline(float_accuracy, color=_FLOAT, linestyle="--", linewidth=1.4, label=f"float32: {float_accuracy:.2f} %")
    axes.plot(range(len(bits)), [fixed[b] for b in bits], color="#888888", linewidth=1, zorder=1)
    for x, b in enumerate(bits):
        axes.scatter(x, fixed[b], s=70, color=_COLORS.get(b), zorder=3)
        axes.annotate(f"{fixed[b]:.2f} %", (x, fixed[b]), xytext=(0, -16), textcoords="offset points", ha="center", fontsize=10, bbox=_PAPER)
    axes.set_xticks(range(len(bits)), [f"{b} bits" for b in bits])
    axes.set_xlim(-0.5, len(bits) - 0.5)
    low, high = min([*fixed.values(), float_accuracy - 1.0]), max([*fixed.values(), float_accuracy])
    axes.set_ylim(low - 0.7, min(high + 0.9, 100.6))
    axes.set(xlabel="word length of weights and activations", ylabel="accuracy on the test set (%)")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", frameon=False, ncols=2)
    _save(figure, path, f"Accuracy against bits ({images} test images; one image is {100 / images:.2f} points)")


def _label_ends(axes: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names beside the ends of lines, spread so that none covers another."""
    ends = sorted(sorted(ends, key=lambda end: -abs(end[0]))[:_MOST_NAMED])
    positions: list[float] = []
    for value, _, _ in ends:
        positions.append(value if not positions else max(value, positions[-1] + 0.11))
    for (value, name, color), position in zip(ends, positions, strict=True):
        axes.annotate(name, (x, value), xytext=(x * 1.02, position), color=color, fontsize=7.5, va="center")


def _role(name: str) -> str:
    return name.rpartition(".")[2].partition("_")[0]


def _present(names: Sequence[str]) -> list[str]:
    found = {_role(name) for name in names}
    return [role for role in _ROLES if role in found]


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title, fontsize=12.5, fontweight="bold")
    figure.savefig(path, dpi=130)
    plt.close(figure)
