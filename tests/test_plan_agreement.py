"""D0, D1, D2 and D3 agree pairwise: any objective, shape, dtype, mask and budget that a plan allows."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastpref
from tests import family

OBJECTIVES = family.variants()
LIMITS = {torch.float64: 1e-10, torch.float32: 2e-4}


def by_kind() -> list[list[str]]:
    """The names of the objectives, those together that the same plans allow and that couple and need the same."""
    kinds: dict[object, list[str]] = {}
    for name, objective in sorted(OBJECTIVES.items()):
        traits = objective.traits
        kind = (traits.coupling, traits.level, traits.vocabulary, objective.weights_tokens, *family.plans(objective))
        kinds.setdefault(kind, []).append(name)
    return list(kinds.values())


def run(call: family.LinearCall, **options) -> tuple[fastpref.PreferenceOutput, list[torch.Tensor]]:
    for leaf in call.leaves:
        leaf.grad = None
    out = call.fused(**options)
    out.loss.backward()
    return out, [torch.zeros_like(x) if x.grad is None else x.grad for x in call.leaves]


@given(
    name=st.sampled_from(by_kind()).flatmap(st.sampled_from),
    dtype=st.sampled_from(list(LIMITS)),
    sequences=st.sampled_from([2, 4, 8]),
    data=st.data(),
    vocab=st.integers(2, 5000),
    size=st.integers(1, 40),
    ignored=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 99),
    budget=st.integers(0, 6),
    weighted=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_all_plans_agree(name, dtype, sequences, data, vocab, size, ignored, seed, budget, weighted):
    objective = OBJECTIVES[name]
    lengths = data.draw(st.lists(st.integers(3, 12), min_size=sequences, max_size=sequences))
    call = family.linear_call(objective, dtype, lengths, seed, vocab, size)
    g = torch.Generator().manual_seed(seed)
    dropped = torch.rand(call.targets.shape, generator=g) < ignored
    dropped[call.cu_seqlens[:-1].long()] = False  # every sequence keeps a row
    call.targets[dropped] = -100
    options = {}
    if weighted and objective.traits.level == "sequence" and "old_logps" not in call.data:
        options["token_weights"] = torch.rand(call.targets.shape, generator=g, dtype=torch.float64)
    allowed = family.plans(objective)
    wanted, exact = run(call, plan="D0", **options)
    for plan in [*allowed[1:], None]:
        limit = None
        if plan is not None:
            limit = family.least_budget(call, plan, **options) << budget
        out, grads = run(call, plan=plan, budget_bytes=limit, **options)
        assert out.plan.design == (plan or out.plan.design)
        assert limit is None or out.plan.scratch_bytes <= limit
        torch.testing.assert_close(out.loss, wanted.loss, rtol=LIMITS[dtype], atol=LIMITS[dtype])
        torch.testing.assert_close(out.logps, wanted.logps, rtol=LIMITS[dtype], atol=LIMITS[dtype])
        for a, b in zip(grads, exact, strict=True):
            torch.testing.assert_close(a, b, rtol=0.0, atol=LIMITS[dtype] * float(b.abs().max()) + 1e-12)
