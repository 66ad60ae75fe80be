"""A notebook's Markdown as HTML: formulas are MathML, other notebooks are their pages."""

import html
import re
from collections.abc import Container

from latex2mathml.converter import convert
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

from mdr_core.errors import StudyError
from mdr_core.report.pages.html_table import unbroken


def to_mathml(latex: str, display: str = "inline") -> str:
    """Return a formula as MathML, which browsers draw; what cannot be shown is a StudyError."""
    try:
        known = re.sub(r"\\operatorname\*?(?=\{)", r"\\mathrm", latex.strip())
        mathml = convert(known, display=display)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds for malformed ones
        raise StudyError(f"formula ${latex}$ is malformed ({type(error).__name__})") from None
    if "\\" in mathml:
        raise StudyError(f"formula ${latex}$ has a command that cannot be shown as MathML")
    mathml = mathml.replace("<math ", f'<math alttext="{html.escape(latex.strip())}" ', 1)
    if display == "block":  # a long one scrolls
        return f'<div class="scroll" tabindex="0" role="group" aria-label="formula">{mathml}</div>'
    return mathml


class Renderer(IPythonRenderer):
    """nbconvert's, without scripts; a link to a notebook of ``pages`` leads to its page."""

    def __init__(self, pages: Container[str]):
        super().__init__(escape=False, exclude_anchor_links=True)
        self.pages = pages

    def text(self, text: str) -> str:
        return super().text(unbroken(text))

    def link(self, text: str, url: str, title: str | None = None) -> str:
        name = url.removesuffix(".ipynb")
        if name == url:
            return super().link(text, url, title)
        return super().link(text, f"{name}.html", title) if name in self.pages else text

    def inline_math(self, body: str) -> str:
        return to_mathml(body)

    def block_math(self, body: str) -> str:
        return to_mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return to_mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def to_html(text: str, pages: Container[str] = ()) -> str:
    """Return Markdown as HTML."""
    return MarkdownWithMath(renderer=Renderer(pages)).render(text)
