"""Execute the notebooks with papermill and render them to HTML that needs no network: ``make reports``."""

import argparse
import json
import os
import re
import sys
import tempfile
from html import escape
from pathlib import Path

import nbformat
import papermill
from latex2mathml.converter import convert as mathml
from nbconvert import HTMLExporter
from nbconvert.filters import highlight_html  # noqa: F401 - part of the template's environment

from mdr_core import profiles
from mdr_core.errors import StudyError, unknown

REPOSITORY = Path(__file__).resolve().parent.parent
FINDING = "application/vnd.mdr.finding+json"  # a cell output with {"finding": one sentence}
HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>{css}</style></head>
<body><nav><a href="{index}">All reports</a></nav><main>{body}</main></body></html>"""


def notebooks() -> dict[str, Path]:
    return {path.stem: path for path in sorted((REPOSITORY / "notebooks").glob("*.ipynb"))}


def check_parameters(path: Path, given: dict) -> None:
    """papermill only warns of a parameter that the notebook does not have; here it is refused."""
    known = papermill.inspect_notebook(str(path))
    for name in given:
        if name not in known:
            raise StudyError(f"notebook {path.stem} has no parameter {name!r}: choose among {', '.join(known)}")


def execute(path: Path, parameters: dict) -> nbformat.NotebookNode:
    """The executed notebook, without traces of the machine in its metadata."""
    check_parameters(path, parameters)
    with tempfile.TemporaryDirectory() as folder:
        try:
            papermill.execute_notebook(path, f"{folder}/out.ipynb", parameters, cwd=REPOSITORY, progress_bar=False)
        except papermill.PapermillExecutionError as failure:
            if failure.ename == "StudyError":
                raise StudyError(failure.evalue) from None
            raise
        notebook = nbformat.read(f"{folder}/out.ipynb", as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k == "tags"}
    return notebook


def render(notebook: nbformat.NotebookNode, index: str = "../index.html") -> str:
    """The page: formulas as MathML, code folded away, progress bars left out, nothing loaded from elsewhere."""
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    formulas = []

    def keep(match):
        block = match.group(1) is not None
        formulas.append(mathml(match.group(1) or match.group(2), display="block" if block else "inline"))
        return f"FORMULA{len(formulas) - 1}END"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", keep, cell.source, flags=re.S)
        else:
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and FINDING not in o.get("data", {})]
    body, _ = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(notebook)
    body = re.sub(r"<script.*?</script>", "", body, flags=re.S)
    body = re.sub(r'<a class="anchor-link".*?</a>', "", body)
    body = re.sub(r'(<div class="jp-InputArea.*?</div>\s*</div>\s*</div>\s*</div>)(?=\s*</div>)',
                  r"<details><summary>code</summary>\1</details>", body, flags=re.S) if "<details>" not in body else body
    body = re.sub(r"FORMULA(\d+)END", lambda m: formulas[int(m.group(1))], body)
    css = (Path(__file__).parent / "report.css").read_text()
    return HEAD.format(title=escape(title), css=css, body=body, index=index)


def finding_of(notebook: nbformat.NotebookNode) -> str:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if FINDING in output.get("data", {}):
                return output["data"][FINDING]["finding"]
    return ""


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text)
    os.replace(partial, path)


def write_index(output: Path) -> None:
    """reports/index.html: every report with its finding, taken from the executed notebook."""
    rows = ["<h1>Multi-level Distance Regularization: the reports</h1>"]
    for profile in profiles.PROFILES:
        found = sorted((output / profile).glob("*.ipynb"))
        rows += [f"<h2>Profile {profile}</h2><ul>"] * bool(found)
        for path in found:
            notebook = nbformat.read(path, as_version=4)
            title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
            rows.append(f'<li><a href="{profile}/{path.stem}.html">{escape(title)}</a>: {escape(finding_of(notebook))}</li>')
        rows += ["</ul>"] * bool(found)
    css = (Path(__file__).parent / "report.css").read_text()
    write(output / "index.html", HEAD.format(title="MDR: the reports", css=css, body="\n".join(rows), index="index.html"))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--notebook", action="append", help="a notebook's name; default: all of them")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "reports")
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="a parameter, as JSON")
    given = parser.parse_args(arguments)
    try:
        profiles.datasets(given.profile)
        for name in given.notebook or notebooks():
            if name not in notebooks():
                raise unknown("notebook", name, notebooks())
            print(f"{given.profile}/{name} ...", flush=True)
            values = {k: json.loads(v) for k, v in given.p}
            executed = execute(notebooks()[name], {"profile": given.profile} | values)
            write(given.output / given.profile / f"{name}.ipynb", nbformat.writes(executed) + "\n")
            write(given.output / given.profile / f"{name}.html", render(executed))
        write_index(given.output)
    except StudyError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    sys.exit(main())
