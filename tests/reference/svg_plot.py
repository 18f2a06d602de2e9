"""One kind of plot as an SVG file, without a plotting package."""

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 760, 460, 70, 56, 20, 130
LABEL_WIDTH, LABEL_HEIGHT = 90, 13
COLORS = ["#1b6ca8", "#c8553d", "#3a7d44", "#8e5572", "#b08900", "#4f6d7a"]


def steps(low, high):
    """About six round numbers that cover [low, high]."""
    step = 10.0 ** len(str(int(high - low))) if high - low >= 1 else 1.0
    while (high - low) / step < 5:
        for part in (2, 2.5, 2):
            if (high - low) / step >= 5:
                break
            step /= part
    first = int(low / step) * step
    return [first + i * step for i in range(int((high - first) / step) + 2)]


def scatter(path, points, x_label, y_label):
    """points: [(name, x, [y of each run])]. Runs of one name are joined by a line."""
    xs = [x for _, x, _ in points]
    ys = [y for _, _, runs in points for y in runs]
    x_steps, y_steps = steps(0, max(xs)), steps(min(ys), max(ys))
    x_low, x_high, y_low, y_high = x_steps[0], x_steps[-1], y_steps[0], y_steps[-1]

    def place(x, y):
        return (LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM))

    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
             'font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for x in x_steps:
        at, bottom = place(x, y_low)
        lines.append(f'<path d="M{at:.1f} {bottom:.1f}V{TOP}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{at:.1f}" y="{bottom + 18:.1f}" text-anchor="middle">{x:,.0f}</text>')
    for y in y_steps:
        left, at = place(x_low, y)
        lines.append(f'<path d="M{left:.1f} {at:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        lines.append(f'<text x="{left - 8:.1f}" y="{at + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    labels = []  # where they stand; one that would cover another moves down
    for i, (name, x, runs) in enumerate(points):
        color = COLORS[i % len(COLORS)]
        marks = [place(x, y) for y in runs]
        lines.append('<path d="M' + "L".join(f"{a:.1f} {b:.1f}" for a, b in marks)
                     + f'" stroke="{color}"/>')
        lines += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="{color}"/>' for a, b in marks]
        a, b = marks[-1]
        while any(abs(a - c) < LABEL_WIDTH and abs(b - d) < LABEL_HEIGHT for c, d in labels):
            b += 1
        labels.append((a, b))
        lines.append(f'<text x="{a + 8:.1f}" y="{b + 4:.1f}" fill="{color}">{name}</text>')
    lines.append(f'<text x="{(WIDTH - RIGHT + LEFT) / 2}" y="{HEIGHT - 12}" '
                 f'text-anchor="middle">{x_label}</text>')
    lines.append(f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" '
                 f'text-anchor="middle">{y_label}</text></svg>')
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
