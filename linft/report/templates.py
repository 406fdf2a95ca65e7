"""The templates of the pages, with what they have in common: one look, and numbers as words."""

import jinja2

from linft.report import runs, words

FILTERS = (words.number, words.fixed, words.signed, words.percent, words.points, words.duration, words.plain)


def template(name: str) -> jinja2.Template:
    """The template of this name; in it text is escaped, and what is missing is empty."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("linft.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.ChainableUndefined,
    )
    environment.filters |= {each.__name__: each for each in FILTERS} | {"label": runs.label}
    return environment.get_template(name)
