"""The tables of losses.md, read from the registered objectives, their traits and the planner; nothing of them is written by hand."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from markup import arguments, code, inline, table

from fastpref.objectives import OBJECTIVES, Objective
from fastpref.objectives.base import Traits
from fastpref.objectives.batch import DATA
from fastpref.objectives.dpo_family import DPOFamily
from fastpref.objectives.policy_gradient import RatioObjective
from fastpref.plan_costs import HeadProblem
from fastpref.planner import make_plan
from fastpref.preference import KL_DIRECTIONS
from fastpref.unscaled import has_known_direction

ROOT = Path(__file__).parent.parent
HEADS = ROOT / "csrc" / "core" / "objective_heads.h"

SCENARIOS = {
    "PRA": "PRA: preference-reward approximation",
    "RDA": "RDA: reward-difference approximation",
    "RA": "RA: reward approximation",
    "BDA": "BDA: Boltzmann distribution approximation",
    "NLL": "Likelihood",
}
"""The sections, by ``traits.scenario``."""

KINDS = (
    "Pairs, a function of the margin alone",
    "Pairs",
    "Single responses",
    "The responses to one prompt",
    "The whole batch",
    "Tokens",
)
"""The tables of a section, in order; see :func:`kind`."""

FAMILIES: dict[type[Objective], str] = {
    DPOFamily: "[DPO options](#dpo-options)",
    RatioObjective: "[GRPO options](#grpo-options)",
}
"""Base classes whose hyper-parameters have a table of their own."""

ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")


def kind(traits: Traits) -> str:
    """The table that a loss belongs into."""
    if traits.coupling == "batch":
        return "The whole batch"
    if traits.coupling == "group":
        return "The responses to one prompt"
    if traits.level == "token":
        return "Tokens"
    if traits.coupling == "sequence":
        return "Single responses"
    return "Pairs, a function of the margin alone" if traits.margin_only else "Pairs"


def losses() -> Iterator[tuple[type[Objective], list[str]]]:
    """Each class with the names that stand for it with its own defaults."""
    names: dict[type[Objective], list[str]] = {}
    for name, known in OBJECTIVES.items():
        names.setdefault(known.cls, [])
        if not known.defaults:
            names[known.cls].append(name)
    yield from names.items()


def presets() -> list[str]:
    """The names that set hyper-parameters."""
    return [name for name, known in OBJECTIVES.items() if known.defaults]


def link(paper: str) -> str:
    """A paper's link: an arXiv id, an address without its scheme, or text."""
    if ARXIV.fullmatch(paper):
        return f"[{paper}](https://arxiv.org/abs/{paper})"
    return f"[{paper}](https://{paper})" if "/" in paper else paper


def papers(cls: type[Objective]) -> str:
    """The one of the traits, then further ones of the docstring that belong to no preset."""
    body = (cls.__doc__ or "").partition("Args:")[0]
    others = {p for name in presets() for p in preset_papers(name)}
    ids = [cls.traits.paper, *(p for p in ARXIV.findall(body) if p not in others)]
    return ", ".join(link(p) for p in dict.fromkeys(ids))


def preset_papers(name: str) -> list[str]:
    """What the class says of the preset's name, or of the options that it sets."""
    known = OBJECTIVES[name]
    named = re.findall(rf"``{name}``\s+\((?:arXiv )?({ARXIV.pattern})", known.cls.__doc__ or "")
    options = {k: v for base in reversed(known.cls.__mro__) for k, v in arguments(base).items()}
    return named or [p for option in known.defaults for p in ARXIV.findall(options.get(option, ""))]


def hyper_parameters(cls: type[Objective]) -> str:
    """``name=default``; those of a family by its link, unless the default is another."""
    family = next((f for f in FAMILIES if issubclass(cls, f)), None)
    shared = {} if family is None else {f.name: f.default for f in dataclasses.fields(family)}  # type: ignore[arg-type]
    own = [f for f in dataclasses.fields(cls) if f.name == "beta" or shared.get(f.name, ...) != f.default]  # type: ignore[arg-type]
    shown = [code(f"{f.name}={f.default!r}") for f in own]
    return ", ".join([*shown, *([] if family is None else [FAMILIES[family]])]) or "none"


def needs(traits: Traits) -> str:
    """Reference, data, lengths, vocabulary, state."""
    reference = {"required": "reference", "optional": "(reference)", "none": ""}[traits.reference]
    return ", ".join(
        part
        for part in (
            reference,
            *(code(d) for d in traits.data if d != "lengths"),
            *(f"({code(d)})" for d in traits.optional_data),
            "lengths" if traits.needs_lengths else "",
            *(f"{code(v)} over the vocabulary" for v in traits.vocabulary),
            "state" if traits.stateful else "",
        )
        if part
    )


def plans(traits: Traits) -> str:
    """What the planner allows."""
    divergence = any(v in KL_DIRECTIONS for v in traits.vocabulary)
    problem = HeadProblem(
        2, 2, 2, 4, unit_rows=(2,), coupling=traits.coupling, divergence=divergence,
        known_direction=has_known_direction(traits, traits.data),
    )  # fmt: skip
    plan = make_plan(problem)
    return ", ".join(sorted([plan.design, *(other.design for other in plan.rejected if other.seconds is not None)]))


def device_forms() -> set[str]:
    """The names of the device forms that are kept ready."""
    return set(re.findall(r"^  X\((\w+),", HEADS.read_text(encoding="utf-8"), re.MULTILINE))


def loss_tables() -> str:
    """One section per scenario, one table per kind of item."""
    ready = device_forms()
    head = ("name", "loss", "derivative", "target", "hyper-parameters", "prior", "needs", "couples", "plans", "device form", "paper")  # fmt: skip
    parts = []
    for scenario, title in SCENARIOS.items():
        parts.append(f"### {title}\n")
        for label in KINDS:
            rows = []
            for cls, names in losses():
                t = cls.traits
                if t.scenario != scenario or kind(t) != label:
                    continue
                others = f" ({', '.join(map(code, names[1:]))})" if names[1:] else ""
                rows.append(
                    (
                        f"{code(names[0])}{others}: {code(cls.__name__)}",
                        *(code(t.formula), code(t.derivative), t.target, hyper_parameters(cls), t.prior, needs(t)),
                        *(t.coupling, plans(t), "yes" if cls.name in ready else "no", papers(cls)),
                    )
                )
            if rows:
                parts.append(f"**{label}**\n\n{table(head, rows)}\n")
    return "\n".join(parts).rstrip()


def preset_table() -> str:
    """The names that stand for a loss with hyper-parameters of their own."""
    rows = []
    for name in presets():
        known = OBJECTIVES[name]
        options = ", ".join(f"{k}={v!r}" for k, v in known.defaults.items())
        found = ", ".join(map(link, preset_papers(name))) or f"see {code(known.cls.name)}"
        asked = {"max_completion_length": 1} if "dr_grpo" in known.defaults.values() else {}  # has no default
        made = known.cls(**{**known.defaults, **asked})
        rows.append((code(name), code(f'objective("{known.cls.name}", {options})'), needs(made.traits), found))
    return table(("preset", "stands for", "needs", "paper"), rows)


def option_table(cls: type[Objective]) -> str:
    """The hyper-parameters of a family."""
    texts = {k: v for base in reversed(cls.__mro__) for k, v in arguments(base).items()}
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]  # a dataclass
    return table(
        ("option", "default", "what it is"),
        [(code(f.name), code(repr(f.default)), inline(texts[f.name])) for f in fields],
    )


def data_table() -> str:
    """The data, and the losses that need or take them."""
    rows = []
    for name, datum in DATA.items():
        users = [
            names[0] if name in cls.traits.data else f"({names[0]})"
            for cls, names in losses()
            if name in (*cls.traits.data, *cls.traits.optional_data)
        ]
        shapes = " or ".join("a scalar" if s == "" else code(f"[{s}]") for s in datum.shapes)
        rows.append((code(name), shapes, datum.kind, datum.meaning, ", ".join(users)))
    return table(("name", "shape", "kind", "what it is", "needed (taken) by"), rows)


def fill(text: str) -> str:
    """The hand-written part with the tables in it."""
    made = {
        "losses": loss_tables(),
        "presets": preset_table(),
        "dpo_options": option_table(DPOFamily),
        "grpo_options": option_table(RatioObjective),
        "data": data_table(),
    }
    for name, part in made.items():
        text = text.replace("{{" + name + "}}", part)
    return text
