"""Charts as SVG, each for light and for dark pages."""

import math
from pathlib import Path
from typing import Any

from peers.parts import Chart

THEMES = {
    "light": {"ink": "#24292f", "grid": "#d0d7de"},
    "dark": {"ink": "#e6edf3", "grid": "#444c56"},
}
_OURS = "#e4572e"
_BASE = "#8b949e"
_OTHERS = ("#4c78a8", "#59a14f", "#b279a2", "#edc948", "#76b7b2", "#9c755f")
_LOGARITHMIC_ABOVE = 12


def draw(chart: Chart, directory: Path) -> dict[str, str]:
    """Write the chart's files; return their names by theme."""
    names = {}
    for theme, colours in THEMES.items():
        names[theme] = f"{chart.name}-{theme}.svg"
        _draw(chart, colours, directory / names[theme])
    return names


def _draw(chart: Chart, colours: dict[str, str], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    ink = colours["ink"]
    style = {
        "font.family": "sans-serif", "font.size": 10, "svg.fonttype": "none",
        "svg.hashsalt": chart.name, "text.color": ink, "axes.labelcolor": ink,
        "axes.edgecolor": colours["grid"], "xtick.color": ink, "ytick.color": ink,
    }  # fmt: skip
    with mpl.rc_context(style):  # type: ignore[arg-type]
        figure, axes = plt.subplots(figsize=(9, 4.2))
        _draw_bars(axes, chart, ink)
        _arrange(axes, chart, colours)
        figure.tight_layout()
        figure.savefig(path, transparent=True, metadata={"Date": None})
        plt.close(figure)


def _draw_bars(axes: Any, chart: Chart, ink: str) -> None:
    width = 0.84 / max(1, len(chart.bars))
    for place, (name, ratios) in enumerate(chart.bars.items()):
        spreads = chart.spreads.get(name, [None] * len(ratios))
        for group, (ratio, spread) in enumerate(zip(ratios, spreads, strict=True)):
            if ratio is None:
                continue
            at = group + (place - (len(chart.bars) - 1) / 2) * width
            axes.bar(at, ratio, width * 0.92, color=_colour(name, place))
            if spread:
                axes.vlines(at, *spread, color=ink, linewidth=1)
            if name.startswith("fastdb"):
                top = max(ratio, spread[1] if spread else 0)
                axes.annotate(
                    f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}",
                    (at, top), xytext=(0, 2), textcoords="offset points",
                    ha="center", fontsize=8, color=ink,
                )  # fmt: skip
        axes.bar(0, 0, color=_colour(name, place), label=name)


def _arrange(axes: Any, chart: Chart, colours: dict[str, str]) -> None:
    axes.axhline(1, color=colours["ink"], linewidth=0.8, linestyle="--")
    axes.set_xticks(range(len(chart.groups)), chart.groups)
    axes.set_ylabel(chart.axis)
    axes.set_title(chart.title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(axis="y", color=colours["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    known = [ratio for ratios in chart.bars.values() for ratio in ratios if ratio]
    if known and max(known) > _LOGARITHMIC_ABOVE:
        axes.set_yscale("log")
        axes.set_ylabel(f"{chart.axis}, logarithmic")
        low = 10 ** math.floor(math.log10(min(known)))
        axes.set_ylim(bottom=low)
    axes.legend(ncols=3, fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _colour(name: str, place: int) -> str:
    if name.startswith("fastdb"):
        return _OURS
    if name.startswith("by hand"):
        return _BASE
    return _OTHERS[place % len(_OTHERS)]
