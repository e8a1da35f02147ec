"""The table."""

from rich import box
from rich.console import Console
from rich.table import Table

from experiments.bench.compare import NOISE, change
from experiments.bench.figures import Figure

WIDTH = 100


def table(figures: list[Figure], base: dict[tuple, Figure], title: str) -> Table:
    """One section's figures; base holds earlier ones by key."""
    out = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", width=WIDTH, padding=(0, 1))
    out.add_column("what")
    for name in ("median",) if base else ("median", "min to max"):
        out.add_column(name, justify="right", no_wrap=True)
    out.add_column("unit", no_wrap=True)
    out.add_column("of its ceiling", no_wrap=True)
    if base:
        out.add_column("earlier", no_wrap=True)
    for f in figures:
        row = [f"{f.name} [dim]{f.setting}[/dim]", number(f.median)]
        if not base:
            row.append(f"{number(min(f.samples))} to {number(max(f.samples))}")
        row.append(f.unit)
        row.append(fraction(f))
        if base:
            row.append(_since(f, base.get(f.key)))
        out.add_row(*row)
    return out


def show(figures: list[Figure], base: dict[tuple, Figure], console: Console) -> None:
    """Prints the tables of all sections, and where the time of training goes."""
    for section in dict.fromkeys(f.section for f in figures):
        console.print(table([f for f in figures if f.section == section], base, section))
    for f in figures:
        if f.where:
            shares = sorted(f.where.items(), key=lambda item: -item[1])
            parts = ", ".join(f"{name} {share:.0%}" for name, share in shares if share > 0.005)
            console.print(f"{f.name} {f.setting}: {parts}", highlight=False)
    for f in filter(below_bar, figures):
        console.print(
            f"below its bar: {f.name} {f.setting}: {f.fraction:.2f} of {f.bar:g} x {f.ceiling_is}",
            highlight=False,
        )


def below_bar(figure: Figure) -> bool:
    """Whether it misses its bar by more than noise."""
    value = figure.fraction
    return value is not None and value < (figure.bar or 0.0) / (1.0 + NOISE)


def fraction(figure: Figure) -> str:
    """As a share, or, where the ceiling is another way to do the same, as a multiple."""
    value = figure.fraction
    if value is None:
        return ""
    text = f"{value:.2f} x" if figure.bar and figure.bar >= 1.0 else f"{value:.0%}"
    text += f" {figure.ceiling_is}"
    if figure.bar is None:
        return text
    colour = "red" if below_bar(figure) else "green"
    return f"[{colour}]{text}[/{colour}]"


def number(value: float) -> str:
    """Three digits or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _since(figure: Figure, base: Figure | None) -> str:
    if base is None:
        return "new"
    ratio, word = change(figure, base)
    colour = {"faster": "green", "less": "green", "same": "dim"}.get(word, "red")
    return f"[{colour}]{ratio:.2f} {word}[/{colour}]"
