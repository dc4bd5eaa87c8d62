"""A bar chart as SVG, without a library."""

COLOURS = ["#9aa5b1", "#e0a458", "#b56576", "#3d7ea6", "#6a994e"]
WIDTH, LEFT, ROW, GAP, TOP = 720, 190, 18, 14, 44


def bars(title, groups):
    """`groups`: (name, [(name of the bar, value), …]) each. A bar's colour is that of its name."""
    names = list(dict.fromkeys(name for _, values in groups for name, _ in values))
    colour = dict(zip(names, COLOURS))
    largest = max((value for _, values in groups for _, value in values), default=1)
    scale = (WIDTH - LEFT - 70) / largest
    y, parts = TOP, [text(12, 24, title, weight="bold")]
    for group, values in groups:
        parts.append(text(12, y + ROW - 5, group))
        for name, value in values:
            parts.append(text(LEFT - 8, y + ROW - 5, name, anchor="end"))
            parts.append(f'<rect x="{LEFT}" y="{y + 2}" width="{value * scale:.1f}" height="{ROW - 4}" fill="{colour[name]}"/>')
            parts.append(text(LEFT + value * scale + 6, y + ROW - 5, f"{value:.1f}"))
            y += ROW
        y += GAP
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" font-family="sans-serif" font-size="12">\n'
            f'<rect width="{WIDTH}" height="{y}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")


def text(x, y, words, anchor="start", weight="normal"):
    return f'<text x="{x:.0f}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>'
