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

from losses_page import fill
from markup import arguments, code, inline, table

DOCS = Path(__file__).parent

API = {
    "Losses": [
        "fastpref.linear_preference_loss",
        "fastpref.logits_preference_loss",
        "fastpref.preference_loss",
        "fastpref.PreferenceOutput",
    ],
    "Token log-probabilities": ["fastpref.logprobs", "fastpref.linear_logprobs", "fastpref.TokenLogProbs"],
    "Divergences over the vocabulary": ["fastpref.token_kl", "fastpref.linear_token_kl", "fastpref.TokenKL"],
    "Objectives": [
        "fastpref.objective",
        "fastpref.objectives.DPO",
        "fastpref.objectives.Mixture",
        "fastpref.objectives.from_function",
    ],
    "Writing an objective": [
        "fastpref.objectives.register",
        "fastpref.objectives.Traits",
        "fastpref.objectives.Objective",
        "fastpref.objectives.PairwiseObjective",
        "fastpref.objectives.SequenceObjective",
        "fastpref.objectives.GroupObjective",
        "fastpref.objectives.Groups",
        "fastpref.objectives.TokenObjective",
        "fastpref.objectives.SequenceBatch",
        "fastpref.objectives.TokenBatch",
    ],
    "Advantages": [
        "fastpref.advantages.group_relative",
        "fastpref.advantages.leave_one_out",
        "fastpref.advantages.gae",
        "fastpref.advantages.kl_in_reward",
        "fastpref.advantages.whiten",
    ],
    "Data for reward approximation": [
        "fastpref.objectives.ra.log_partition",
        "fastpref.objectives.ra.optimal_value",
        "fastpref.objectives.ra.reward_quantiles",
    ],
    "Packed rows": ["fastpref.packing.pack_padded", "fastpref.packing.PackedRows", "fastpref.packing.segment_sum"],
    "Modules": ["fastpref.nn.LinearPreferenceLoss"],
    "Plans": ["fastpref.planner.make_plan", "fastpref.plan_costs.HeadProblem", "fastpref.planner.Plan"],
    "The lab": [
        "fastpref.lab.Instance",
        "fastpref.lab.descend",
        "fastpref.lab.Descent",
        "fastpref.lab.Update",
        "fastpref.lab.BDA",
        "fastpref.lab.RA",
        "fastpref.lab.RDA",
        "fastpref.lab.PRA",
        "fastpref.lab.PolicyGradient",
        "fastpref.lab.sampled_dpo",
        "fastpref.lab.steps_to_target",
    ],
    "Training from a program": ["fastpref.train.train", "fastpref.train.TrainResult"],
}
"""The API page: its sections, and the objects of each by qualified name."""

SHOWN_WITH_METHODS = (
    "fastpref.objectives.SequenceBatch",
    "fastpref.objectives.TokenBatch",
    "fastpref.objectives.Groups",
    "fastpref.lab.Instance",
)
"""Classes that are not abstract and whose methods are what they are for."""

MADE = "<!-- made by docs/generate.py from the docstrings; edit those -->\n"
MADE_OF_OBJECTS = "<!-- made by docs/generate.py from losses.in.md and fastpref/objectives; edit those -->\n"


def resolve(name: str) -> object:
    """The object of a qualified name."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def entry(name: str) -> str:
    """An object's signature and docstring."""
    thing = resolve(name)
    doc = (inspect.getdoc(thing) or "") + _inherited_arguments(thing)
    signature = ""
    if inspect.isfunction(thing) or (inspect.isclass(thing) and not inspect.isabstract(thing)):
        signature = "\n".join(["```python", _signature(name, thing), "```", ""])
    return "\n\n".join(filter(None, [f"### `{name}`", f"{signature}{_as_markdown(doc)}", _methods(name, thing)])) + "\n"


def _inherited_arguments(thing: object) -> str:
    """The arguments of a dataclass that only the classes it derives from document."""
    if not (inspect.isclass(thing) and dataclasses.is_dataclass(thing)) or inspect.isabstract(thing):
        return ""
    documented = {k for section in ("Args:", "Attributes:") for k in arguments(thing, section)}
    texts = {k: v for base in reversed(thing.__mro__[1:]) for k, v in arguments(base).items() if k not in documented}
    lines = [f"    {f.name}: {texts[f.name]}" for f in dataclasses.fields(thing) if f.name in texts]
    return "\n".join(["\n\nArgs:", *lines]) if lines else ""


def _methods(name: str, thing: object) -> str:
    """What a class that is subclassed, or handed to code that is, offers."""
    if not inspect.isclass(thing) or not (inspect.isabstract(thing) or name in SHOWN_WITH_METHODS):
        return ""
    lines = []
    for member, value in vars(thing).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if member.startswith("_") or not inspect.isfunction(function):
            continue
        call = "" if isinstance(value, property) else _unquoted(str(inspect.signature(getattr(thing, member))))
        call = call.replace("(self, ", "(").replace("(self)", "()")
        summary = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        abstract = ", **to be written**" if getattr(function, "__isabstractmethod__", False) else ""
        lines.append(f"* `{member}{call}`{abstract}: {inline(summary)}")
    return "**Members**\n\n" + "\n".join(lines) if lines else ""


def _signature(name: str, thing: object) -> str:
    signature = inspect.signature(thing)  # type: ignore[arg-type]  # functions and classes only
    line = _unquoted(f"{name}{signature}")
    if len(line) <= 100:
        return line
    shown, star = [], False
    positional = sum(p.kind is p.POSITIONAL_ONLY for p in signature.parameters.values())
    for number, p in enumerate(signature.parameters.values()):
        if number == positional > 0:
            shown.append("/")
        if p.kind is p.KEYWORD_ONLY and not star:
            shown.append("*")
            star = True
        shown.append(str(p))
    returns = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return _unquoted(f"{name}(\n" + "".join(f"    {s},\n" for s in shown) + f"){returns}")


def _unquoted(signature: str) -> str:
    """Postponed annotations come as strings, quoted; defaults that are made are no text of Python."""
    return re.sub(r"(: |-> )(?:'([^']*)'|\"([^\"]*)\")", r"\1\2\3", signature).replace("<factory>", "...")


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
    # Examples stay as they are.
    return "```".join(inline(part) if i % 2 == 0 else part for i, part in enumerate(text.split("```")))


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
    rows = []
    for field in dataclasses.fields(cls):
        default = "required" if field.default is dataclasses.MISSING else code(str(field.default))
        rows.append((code(f"--{field.name.replace('_', '-')}"), default, docs[field.name]))
    return table(("option", "default", "what it is"), rows)


def train_page() -> str:
    """docs/train.md: the hand-written part of train.in.md with the options' table."""
    from fastpref.train.config import TrainConfig

    text = (DOCS / "train.in.md").read_text(encoding="utf-8")
    return MADE + text.replace("{{options}}", options_table(TrainConfig))


def losses_page() -> str:
    """docs/losses.md: the hand-written part of losses.in.md with its tables."""
    return MADE_OF_OBJECTS + fill((DOCS / "losses.in.md").read_text(encoding="utf-8"))


PAGES = {"api.md": api_page, "losses.md": losses_page, "train.md": train_page}


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
