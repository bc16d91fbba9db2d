"""Writes the pages of this folder that are made from the code: ``python docs/generate.py`` (``--check`` only compares).

Each option and argument is documented once, next to its code; the pages repeat nothing by hand.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import sys
import textwrap
from pathlib import Path

DOCS = Path(__file__).parent

API = {
    "Losses": ["fastpref.linear_preference_loss", "fastpref.preference_loss", "fastpref.PreferenceOutput"],
    "Token log-probabilities": ["fastpref.logprobs", "fastpref.linear_logprobs", "fastpref.TokenLogProbs"],
    "Objectives": ["fastpref.objective", "fastpref.objectives.DPO", "fastpref.objectives.Objective", "fastpref.objectives.Traits"],
    "Packed rows": ["fastpref.packing.pack_padded", "fastpref.packing.PackedRows", "fastpref.packing.segment_sum"],
    "Modules": ["fastpref.nn.LinearPreferenceLoss"],
    "Plans": ["fastpref.planner.make_plan", "fastpref.planner.HeadProblem", "fastpref.planner.Plan"],
    "Training from a program": ["fastpref.train.train", "fastpref.train.TrainResult"],
}  # fmt: skip
"""The API page: its sections, and the objects of each by qualified name."""

MADE = "<!-- made by docs/generate.py from the docstrings; edit those -->\n"


def resolve(name: str) -> object:
    """The object of a qualified name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def entry(name: str) -> str:
    """An object's signature and docstring."""
    thing = resolve(name)
    doc = inspect.getdoc(thing) or ""
    signature = ""
    if inspect.isfunction(thing) or (inspect.isclass(thing) and not inspect.isabstract(thing)):
        signature = "\n".join(["```python", _signature(name, thing), "```", ""])
    return f"### `{name}`\n\n{signature}{_as_markdown(doc)}\n"


def _signature(name: str, thing: object) -> str:
    signature = inspect.signature(thing)  # type: ignore[arg-type]  # functions and classes only
    line = _unquoted(f"{name}{signature}")
    if len(line) <= 100:
        return line
    shown, star = [], False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        shown.append(str(p))
    returns = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return _unquoted(f"{name}(\n" + "".join(f"    {s},\n" for s in shown) + f"){returns}")


def _unquoted(signature: str) -> str:
    """Postponed annotations come as strings, quoted."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", signature)


def _as_markdown(doc: str) -> str:
    """Google-style sections as bold headings, ReST roles and double backticks as code, doctest examples fenced."""
    lines, out, section = doc.splitlines(), [], ""
    for line in lines:
        if line.rstrip(":") in ("Args", "Returns", "Raises", "Attributes", "Example") and line.endswith(":"):
            section = line.rstrip(":")
            out.append(f"**{section}**\n")
        elif section == "Example":
            out.append(line)
        elif section and line.startswith("    ") and not line.startswith("     "):
            head, colon, rest = line.strip().partition(": ")
            known = section in ("Args", "Raises", "Attributes") and colon and " " not in head.strip("`*")
            out.append(
                f"* `{head.strip('`')}`: {rest}"
                if known
                else f"{line.strip()}"
                if section == "Returns"
                else f"* {line.strip()}"
            )
        elif section and line.startswith("     "):
            out.append(f"  {line.strip()}")
        else:
            out.append(line)
    text = "\n".join(out)
    if "**Example**\n" in text:
        before, after = text.split("**Example**\n")
        text = f"{before}**Example**\n\n```python\n{textwrap.dedent(after.strip(chr(10)))}\n```"
    for role in ("func", "class", "mod", "data", "meth", "exc"):
        text = text.replace(f":{role}:`~", "`").replace(f":{role}:`", "`")
    return (
        text.replace("``", "`")
        if "```" not in text
        else "```".join(part.replace("``", "`") if i % 2 == 0 else part for i, part in enumerate(text.split("```")))
    )


def api_page() -> str:
    """docs/api.md."""
    parts = [MADE, "# API\n"]
    for section, names in API.items():
        parts += [f"## {section}\n", *(entry(name) for name in names)]
    return "\n".join(parts).rstrip() + "\n"


def field_docs(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            docs[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return docs


def options_table(cls: type) -> str:
    """A markdown table of a configuration dataclass."""
    docs = field_docs(cls)
    rows = ["| option | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
        text = docs[field.name].replace("|", "\\|")
        rows.append(f"| `--{field.name.replace('_', '-')}` | {default} | {text} |")
    return "\n".join(rows)


def train_page() -> str:
    """docs/train.md: the hand-written part of train.in.md with the options' table."""
    from fastpref.train.config import TrainConfig

    text = (DOCS / "train.in.md").read_text(encoding="utf-8")
    return MADE + text.replace("{{options}}", options_table(TrainConfig))


PAGES = {"api.md": api_page, "train.md": train_page}


def main() -> int:
    """Write or compare the pages; status 1 where one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        text, path = page(), DOCS / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not check:
                path.write_text(text, encoding="utf-8")
    print("\n".join(f"{'out of date' if check else 'written'}: {name}" for name in stale) or "up to date")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
