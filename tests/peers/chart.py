"""The chart: plain horizontal bars as SVG, legible on light and dark pages, without scripts or fonts of its own."""
from xml.sax.saxutils import escape

ROW, LEFT, WIDTH, RIGHT = 26, 150, 480, 90
STYLE = """
  text { font: 13px sans-serif; fill: #24292f }
  .bar { fill: #8c959f } .mini { fill: #1a7f37 } .spread { stroke: #24292f; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .bar { fill: #6e7681 } .mini { fill: #3fb950 } .spread { stroke: #e6edf3 }
  }
"""


def draw(bars, title="start to exit of busybox's true, ms: median, and the middle half of all runs"):
    """SVG of bars (name, value, low, high); those whose name begins with mini are highlighted."""
    most = max(high for _, _, _, high in bars)
    scale = WIDTH / most
    height = ROW * len(bars) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {height}" role="img">',
        f"<title>{escape(title)}</title><style>{STYLE}</style>",
        f'<text x="4" y="18">{escape(title)}</text>',
    ]
    for number, (name, value, low, high) in enumerate(bars):
        y = 32 + number * ROW
        kind = "bar mini" if name.startswith("mini") else "bar"
        middle = y + (ROW - 8) / 2
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{max(value * scale, 1):.1f}" height="{ROW - 8}" rx="2"/>',
            f'<path class="spread" d="M{LEFT + low * scale:.1f} {middle}H{LEFT + high * scale:.1f}"/>',
            f'<text x="{LEFT + high * scale + 8:.1f}" y="{y + 14}">{value:.2f}</text>',
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"
