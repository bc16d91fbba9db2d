"""``logits_preference_loss``: every objective against plain PyTorch in float64, through the stage and through the composition."""

import copy
import math
import pickle

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fastpref
from fastpref.backends import load
from fastpref.objectives.device import identify
from fastpref.staged_loss import LateMetrics, staging
from fastpref.token_logprobs import TokenLogProbs

from . import family
from .emulation import require_triton, watch
from .emulation.cuda import control, require_emulated

require_triton()

VOCAB = 37
LENGTHS = [3, 2, 4, 1]
TOTAL = sum(LENGTHS)
CU = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0).tolist()], dtype=torch.int32)
STAGE = load("triton").stage
STAGED = ["triton", "cuda", "cpu"]
"""The backends that have a stage."""


@pytest.fixture(scope="module", autouse=True)
def _cuda_is_emulated() -> None:
    require_emulated()


def staged(objective) -> bool:
    given = family.data(objective, LENGTHS, torch.Generator().manual_seed(1))
    return staging(objective, STAGE, given, False) is not None


def draw(dtype=torch.float32, seed: int = 0):
    """``(policy, reference, targets)``; two rows of the third sequence are ignored, and hold NaN."""
    g = torch.Generator().manual_seed(seed)
    policy = torch.randn(TOTAL, VOCAB, generator=g) * 2
    reference = policy + 0.3 * torch.randn(TOTAL, VOCAB, generator=g)
    targets = torch.randint(0, VOCAB, (TOTAL,), generator=g)
    targets[6:8] = -100
    policy[6:8] = reference[6:8] = torch.nan
    return policy.to(dtype), reference.to(dtype), targets


def plain(objective, policy, reference, targets, data, dtype, **options):
    """The loss of full log-softmaxes in that dtype, and its gradient."""
    active, ids = targets >= 0, targets.clamp_min(0)[:, None]
    leaf = policy.to(dtype).masked_fill(~active[:, None], 0).requires_grad_()
    other = reference.to(dtype).masked_fill(~active[:, None], 0)
    logp, ref = leaf.log_softmax(-1), other.log_softmax(-1)
    tokens, near = (x.gather(1, ids).squeeze(1).masked_fill(~active, 0) for x in (logp, ref))
    vocabulary, kl, squares = objective.traits.vocabulary, None, None
    if "forward_kl" in vocabulary:
        kl = (ref.exp() * (ref - logp)).sum(-1)
    elif "reverse_kl" in vocabulary:
        kl = (logp.exp() * (logp - ref)).sum(-1)
    if "log_sum_sq_probs" in vocabulary:
        squares = (2 * logp).logsumexp(-1).detach()
    known = None if objective.traits.reference == "none" else near
    out = family.TokenCall(objective, tokens, known, kl, squares, CU, data).run(mask=active, **options)
    out.loss.backward()
    return out, leaf.grad


def compare(objective, backend: str, data=None, weights=None, **options) -> fastpref.PreferenceOutput:
    policy, reference, targets = draw()
    if data is None:
        data = family.data(objective, LENGTHS, torch.Generator().manual_seed(1))
    exact, exact_grad = plain(objective, policy, reference, targets, data, torch.float64, token_weights=weights)
    rough, rough_grad = plain(objective, policy, reference, targets, data, torch.float32, token_weights=weights)
    leaf = policy.clone().requires_grad_()
    known = None if objective.traits.reference == "none" else reference
    out = fastpref.logits_preference_loss(
        objective, leaf, targets, CU, reference=known, token_weights=weights, backend=backend, **data, **options
    )
    out.loss.backward()
    scale = max(1.0, exact.losses.abs().max().item())
    # A float32 head: its own roundings are those of the terms that a loss cancels.
    assert abs(out.loss - exact.loss) <= 2 * abs(rough.loss - exact.loss) + 2e-6 * scale
    torch.testing.assert_close(out.losses, exact.losses.detach(), rtol=1e-5, atol=5e-6 * scale)
    error = (leaf.grad - exact_grad).abs().max()
    assert error <= 3 * (rough_grad - exact_grad).abs().max() + 3e-6 * exact_grad.abs().max()
    assert (leaf.grad[6:8] == 0).all()
    assert set(out.metrics) == set(exact.metrics)
    for name, value in exact.metrics.items():
        torch.testing.assert_close(out.metrics[name].double(), value.double(), rtol=1e-5, atol=2e-5, msg=name)
    torch.testing.assert_close(out.logps, exact.logps, rtol=1e-6, atol=1e-5)
    return out


@pytest.mark.parametrize("backend", STAGED)
@family.each(staged)
def test_every_objective_with_a_head(objective, backend) -> None:
    compare(objective, backend)


@family.each(lambda o: o.name in ("tdpo1", "aot", "infonca", "mixture", "gmpo", "bco") and not staged(o))
@pytest.mark.parametrize("backend", STAGED)
def test_an_objective_without_a_head(objective, backend) -> None:
    compare(objective, backend)


@family.each(lambda o: o.name in ("sigmoid", "simpo", "tdpo2", "kto", "grpo", "aot", "ppo"))
def test_eager(objective) -> None:
    compare(objective, "eager")


def test_most_of_the_catalogue_has_a_head() -> None:
    names = {name for name, objective in family.variants().items() if staged(objective)}
    assert len(names) >= 60
    assert {"sigmoid", "dpo", "ipo", "simpo", "orpo", "kto", "grpo", "dapo", "dr_grpo", "ppo", "nash_md", "ra"} <= names
    assert not {"wpo", "tdpo1", "bco", "aot", "infonca", "gspo", "gmpo", "rpo", "bda+exact"} & names


class OwnDPO(fastpref.objectives.DPO):
    """Somebody's own loss under a name of the catalogue."""


@pytest.mark.parametrize(
    ("objective", "head"),
    [
        (fastpref.objective("sigmoid", beta=3.0), "sigmoid"),
        (fastpref.objective("sigmoid", ld_alpha=0.2), "sigmoid"),
        (fastpref.objective("hinge", f_divergence_type="forward_kl"), "hinge_f_divergence_type_forward_kl"),
        (fastpref.objective("sigmoid", f_divergence_type="alpha_divergence", f_alpha_divergence_coef=1.0), None),
        (fastpref.objective("sigmoid", use_weighting=True), None),
        (fastpref.objective("grpo", beta=0.1, epsilon_high=0.3), "grpo_kl_epsilon_high"),
        (fastpref.objective("grpo", epsilon_high=0.3, loss_aggregation="bnpo"), "grpo_epsilon_high"),
        (fastpref.objective("grpo", epsilon_high=0.3, dual_clip=4.0), None),  # each of the two makes another form
        (fastpref.objective("grpo", importance_sampling_level="sequence"), None),
        (OwnDPO(), None),
    ],
    ids=str,
)
def test_the_head_of_an_objective(objective, head) -> None:
    assert identify(objective, STAGE.names) == head


@pytest.mark.parametrize("backend", STAGED[1:])
def test_backends_have_the_same_heads(backend) -> None:
    other = load(backend).stage
    assert other.names == STAGE.names
    shape = {name: (head.kind, head.data, head.hyper, head.number) for name, head in STAGE.heads.items()}
    assert {name: (head.kind, head.data, head.hyper, head.number) for name, head in other.heads.items()} == shape


@pytest.mark.parametrize("backend", STAGED)
def test_token_weights(backend) -> None:
    weights = torch.rand(TOTAL, generator=torch.Generator().manual_seed(5))
    for name, options in {"sigmoid": {"ld_alpha": 0.5}, "kto": {}, "simpo": {}}.items():  # simpo's likelihood: composed
        compare(family.make(name, **options), backend, weights=weights)


@pytest.mark.parametrize("backend", STAGED)
def test_data_that_may_be_left_out_or_learnt(backend) -> None:
    g = torch.Generator().manual_seed(1)
    for name in ("grpo", "rloo", "bda"):  # of the policy's own samples, without a baseline
        compare(family.make(name), backend, data=family.data(family.make(name), LENGTHS, g, optional=False))
    advantages = torch.linspace(-1, 1, TOTAL)
    compare(family.make("grpo"), backend, data={"advantages": advantages, "old_logps": -3 - torch.rand(TOTAL)})
    given = {"sft_logps": torch.tensor([-3.0, -4.0])}
    compare(family.make("slic_hf"), backend, data=given)
    compare(family.make("slic_hf"), backend, data={})
    policy, reference, targets = draw()
    values = torch.zeros(len(LENGTHS), dtype=torch.float64, requires_grad=True)
    rewards = torch.rand(len(LENGTHS))
    fastpref.logits_preference_loss(
        "dro_v", policy, targets, CU, reference=reference, backend=backend, rewards=rewards, values=values
    ).loss.backward()
    assert values.grad.abs().sum() > 0


def run(reference, targets=None, policy=None, name="sigmoid", **options):
    """Loss and gradient by each stage and by the composition of eager."""
    drawn, _, ids = draw()
    found = []
    for backend in (*STAGED, "eager"):
        leaf = (drawn if policy is None else policy).clone().requires_grad_()
        out = fastpref.logits_preference_loss(
            name, leaf, ids if targets is None else targets, CU, reference=reference, backend=backend, **options
        )
        out.loss.backward()
        found.append((out, leaf.grad))
    b, grad_b = found.pop()
    for a, grad_a in found:
        torch.testing.assert_close(a.loss, b.loss, rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(grad_a, grad_b, rtol=1e-5, atol=1e-7)
        if b.ref_logps is not None:
            torch.testing.assert_close(a.ref_logps, b.ref_logps, rtol=1e-6, atol=1e-5)
    return found[0][0]


def test_forms_of_a_reference() -> None:
    _, reference, targets = draw()
    tokens = fastpref.logprobs(reference, targets)
    assert isinstance(tokens, TokenLogProbs)
    by_logits = run(reference)
    for given in (tokens, tokens.logps, tokens.logps.half().float(), fastpref.packing.segment_sum(tokens.logps, CU)):
        torch.testing.assert_close(run(given).loss, by_logits.loss, rtol=1e-3, atol=0)
    noisy = tokens.logps.masked_fill(targets < 0, torch.nan)  # ignored rows may hold anything
    torch.testing.assert_close(run(noisy).loss, by_logits.loss, rtol=1e-6, atol=0)
    assert run(None).ref_logps is None
    run(tokens.logps, name="nash_md", win_probs=torch.rand(len(LENGTHS)))
    run(reference.double().float().to(torch.bfloat16).float())


def test_logit_transforms_and_ignored_ids() -> None:
    policy, reference, targets = draw()
    run(reference, temperature=0.7, softcap=9.0, logit_scale=1.5)
    run(reference, temperature=torch.linspace(0.5, 2.0, TOTAL))
    run(reference, targets.masked_fill(targets < 0, 5), ignore_index=5, policy=policy.nan_to_num(1.0))


def test_rows_that_are_one_token_each() -> None:
    policy, reference, targets = draw()
    cu = torch.arange(TOTAL + 1, dtype=torch.int32)
    losses = [
        fastpref.logits_preference_loss("sigmoid", policy, targets, cu, reference=reference, backend=b).loss
        for b in (*STAGED, "eager")
    ]
    for loss in losses[:-1]:
        torch.testing.assert_close(loss, losses[-1])


@pytest.mark.parametrize("backend", STAGED)
def test_in_place_and_strided_logits(backend) -> None:
    policy, reference, targets = draw()
    expected = []
    for inplace in (False, True):
        leaf = policy.clone().requires_grad_()
        logits = leaf * 1
        out = fastpref.logits_preference_loss(
            "sigmoid", logits, targets, CU, reference=reference, inplace_backward=inplace, backend=backend
        )
        out.loss.backward()
        expected.append(leaf.grad)
        if inplace:
            assert torch.equal(logits.detach(), leaf.grad)  # overwritten
    assert torch.equal(*expected)
    columns = policy.t().contiguous().t().requires_grad_()  # a last dimension that is not contiguous
    out = fastpref.logits_preference_loss("sigmoid", columns, targets, CU, reference=reference, backend=backend)
    out.loss.backward()
    assert torch.equal(columns.grad, expected[0])


@pytest.mark.parametrize("name", ["sigmoid", "simpo", "kto", "grpo", "tdpo1"])
def test_gradcheck(name) -> None:
    objective = family.make(name)
    policy, reference, targets = draw(torch.float64)
    policy = policy.nan_to_num(0.5)[:, :7]
    data = family.data(objective, LENGTHS, torch.Generator().manual_seed(1), optional=name == "grpo")
    known = None if objective.traits.reference == "none" else reference.nan_to_num(0.5)[:, :7]

    def loss(x):
        return fastpref.logits_preference_loss(
            objective, x, targets.clamp_max(6), CU, reference=known, backend="eager", **data
        ).loss

    assert torch.autograd.gradcheck(loss, policy.requires_grad_())


def test_what_is_returned() -> None:
    policy, reference, targets = draw()
    for backend in (*STAGED, "eager"):
        out = fastpref.logits_preference_loss(
            "sigmoid", policy.requires_grad_(), targets, CU, reference=reference, backend=backend
        )
        assert (out.loss.dtype, out.losses.dtype, out.logps.dtype) == (torch.float32, torch.float64, torch.float64)
        assert (out.loss.shape, out.losses.shape, out.logps.shape) == ((), (2,), (4,))
        assert out.loss.requires_grad
        assert not out.losses.requires_grad
        assert not out.logps.requires_grad
        assert out.plan is None
        assert out.state == {}


def test_metrics_come_when_they_are_looked_at() -> None:
    calls = []
    metrics = LateMetrics(lambda: calls.append(1) or {"a": torch.ones(())})
    assert not calls
    assert dict(metrics) == {"a": 1}
    assert (len(metrics), "a" in metrics, repr(metrics)) == (1, True, "{'a': tensor(1.)}")
    assert len(calls) == 1


@pytest.mark.parametrize("backend", STAGED)
def test_a_copy_of_late_metrics_is_their_numbers(backend) -> None:
    policy, reference, targets = draw()
    targets.add_(0)  # a copy of it begins to count its versions anew
    g = torch.Generator().manual_seed(1)
    for name in ("sigmoid", "kto"):
        data = family.data(family.make(name), LENGTHS, g)
        out = fastpref.logits_preference_loss(name, policy, targets, CU, reference=reference, backend=backend, **data)
        copies = copy.deepcopy(out.metrics), pickle.loads(pickle.dumps(out.metrics))
        assert [dict(found) for found in copies] == [dict(out.metrics)] * 2


@pytest.mark.parametrize("backend", STAGED)
def test_late_metrics_refuse_a_reference_and_log_probs_that_changed(backend) -> None:
    policy, _, targets = draw()
    reference = torch.zeros(len(LENGTHS), dtype=torch.float64)
    data = family.data(family.make("kto"), LENGTHS, torch.Generator().manual_seed(1))
    out = fastpref.logits_preference_loss("kto", policy, targets, CU, reference=reference, backend=backend, **data)
    reference.fill_(5)
    with pytest.raises(RuntimeError, match="reference changed in place since the call"):
        dict(out.metrics)
    if backend != "triton":  # whose metrics come from token log-probs
        out = fastpref.logits_preference_loss("sigmoid", policy, targets, CU, reference=reference, backend=backend)
        out.logps.zero_()
        with pytest.raises(RuntimeError, match="logps changed in place since the call"):
            dict(out.metrics)


@pytest.mark.parametrize("backend", ["cpu", "cuda", "eager"])
def test_an_infinite_upstream_gradient_leaves_ignored_rows_at_0(backend) -> None:
    policy, reference, targets = draw()
    policy, reference = policy.nan_to_num(1.0), reference.nan_to_num(1.0)
    leaf, ids = policy.requires_grad_(), targets.masked_fill(targets < 0, 5)
    out = fastpref.logits_preference_loss(
        "sigmoid", leaf, ids, CU, reference=reference, ignore_index=5, backend=backend
    )
    (out.loss * math.inf).backward()
    assert (leaf.grad[ids == 5] == 0).all()


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_reference_from_logprobs_meets_the_loss_to_a_rounding(backend, monkeypatch) -> None:
    """Of the logarithm, which is another there; whatever the vocabulary, and where rows are split over blocks."""
    for columns, multiprocessors in ((10, 0), (500, 0), (20011, 0), (20011, 40)):
        if backend == "cuda":
            monkeypatch.setattr(load("cuda"), "multiprocessors", multiprocessors)
        policy = torch.randn(4, columns, generator=torch.Generator().manual_seed(3)) * 5
        targets, cu = torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2, 4], dtype=torch.int32)
        known = fastpref.logprobs(policy, targets, backend=backend)
        out = fastpref.logits_preference_loss("sigmoid", policy, targets, cu, reference=known, backend=backend)
        torch.testing.assert_close(out.logps, out.ref_logps, rtol=0, atol=1e-6)
        other = fastpref.logits_preference_loss("sigmoid", policy, targets, cu, reference=policy, backend=backend)
        assert torch.equal(other.logps, other.ref_logps)


def test_late_metrics_refuse_what_changed_in_between() -> None:
    policy, reference, targets = draw()
    ends = CU.clone()
    out = fastpref.logits_preference_loss("sigmoid", policy, targets, ends, reference=reference, backend="triton")
    ends.zero_()
    with pytest.raises(RuntimeError, match="cu_seqlens changed in place since the call"):
        out.metrics["rewards/margins"]


@pytest.mark.parametrize("backend", [*STAGED, "eager"])
def test_a_function_as_a_loss(backend) -> None:
    policy, reference, targets = draw()

    def hinge(policy, reference):
        chosen, rejected = (policy - reference).chunk(2)
        return (1 - (chosen - rejected)).relu()

    out = fastpref.logits_preference_loss(hinge, policy, targets, CU, reference=reference, backend=backend)
    named = fastpref.logits_preference_loss(
        "hinge", policy, targets, CU, reference=reference, beta=1.0, backend="eager"
    )
    torch.testing.assert_close(out.loss, named.loss, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("backend", [*STAGED, "eager"])
@pytest.mark.parametrize("value", [1.5, True])
def test_ignore_index_is_an_integer(backend, value) -> None:
    policy, reference, targets = draw()
    with pytest.raises(TypeError, match="ignore_index: expected an int"):
        fastpref.logits_preference_loss(
            "sigmoid", policy, targets, CU, reference=reference, ignore_index=value, backend=backend
        )


def test_without_a_gradient_there_is_no_gradient_launch() -> None:
    policy, reference, targets = draw()
    for backend in STAGED:
        with watch() as launches, control().watching() as seen, torch.no_grad():
            out = fastpref.logits_preference_loss("sigmoid", policy, targets, CU, reference=reference, backend=backend)
        assert (len(launches), seen.totals.launches) == {"triton": (2, 0), "cuda": (0, 1), "cpu": (0, 0)}[backend]
        assert not out.loss.requires_grad


class Recorder(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("backend", STAGED)
@pytest.mark.parametrize("form", ["logits", "tokens", "sequences"])
@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_nothing_else_runs_where_values_may_not_be_looked_at(monkeypatch, name, form, backend) -> None:
    """As on a GPU: beside the two or three launches only memory is asked for, and views are taken."""
    for module in ("logits_loss", "_checks", "arguments"):
        monkeypatch.setattr(f"fastpref.{module}.may_synchronise", lambda device: False)
    policy, reference, targets = draw()
    known = {"logits": reference, "tokens": fastpref.logprobs(reference, targets).logps}
    known["sequences"] = fastpref.packing.segment_sum(known["tokens"], CU)
    expected = fastpref.logits_preference_loss(name, policy, targets, CU, reference=known[form], backend="eager")
    leaf = policy.clone().requires_grad_()
    upstream = torch.ones(())
    with watch() as launches, control().watching() as seen, Recorder() as ran:
        out = fastpref.logits_preference_loss(name, leaf, targets, CU, reference=known[form], backend=backend)
        (grad,) = torch.autograd.grad(out.loss, leaf, upstream)
    if backend == "triton":
        assert [launch.kernel for launch in launches] == ["_row_stats", "_sequence_objective", "_row_grad"]
    else:
        assert seen.totals.launches == (2 if backend == "cuda" else 0)
    free = {"aten.empty", "aten.empty_like", "aten.detach", "aten.select", "aten.alias", "aten.view"}
    if backend == "triton":  # what its interpreter does for a launch
        free |= {"aten.new_empty", "aten.as_strided", "aten.lift_fresh", "aten.copy_", "aten.fill_.Scalar"}
        free |= {"aten.set_.source_Storage", "aten.set_.source_Storage_storage_offset"}
    assert {name.removesuffix(".default").split(".memory_format")[0].split(".int")[0] for name in ran.names} <= free
    torch.testing.assert_close(out.loss, expected.loss, rtol=2e-6, atol=1e-7)
    torch.testing.assert_close(
        out.metrics["rewards/margins"], expected.metrics["rewards/margins"], rtol=1e-5, atol=1e-6
    )
    assert grad.isfinite().all()
    with pytest.raises(ValueError, match="even number of sequences"):
        fastpref.logits_preference_loss(name, leaf, targets, CU[:-1], reference=reference, backend=backend)


@pytest.mark.parametrize("backend", STAGED)
def test_second_derivatives_are_refused(backend) -> None:
    policy, reference, targets = draw()
    leaf = policy.clone().requires_grad_()
    out = fastpref.logits_preference_loss("sigmoid", leaf, targets, CU, reference=reference, backend=backend)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        torch.autograd.grad(out.loss, leaf, create_graph=True)


def test_fake_tensors_take_the_formula() -> None:
    """A stage runs on memory, of which they have none."""
    policy, reference, targets = draw()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        logits, near, ids, ends = map(mode.from_tensor, (policy.requires_grad_(), reference, targets, CU))
        loss = fastpref.logits_preference_loss("sigmoid", logits, ids, ends, reference=near).loss
        loss.backward()
    assert loss.shape == ()
    assert logits.grad.shape == policy.shape


@pytest.mark.parametrize("backend", [*STAGED, "eager"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"logits": torch.zeros(3)}, ValueError, r"logits: expected shape \[T, V\], found \[3\]"),
        ({"logits": torch.zeros(TOTAL, 0)}, ValueError, "V >= 1"),
        ({"targets": torch.zeros(3, dtype=torch.int64)}, ValueError, "targets: expected shape"),
        ({"targets": torch.zeros(TOTAL, dtype=torch.int32)}, TypeError, "targets: expected dtype torch.int64"),
        ({"targets": torch.full((TOTAL,), VOCAB)}, ValueError, r"targets: expected ids in \[0, 37\)"),
        ({"cu_seqlens": torch.tensor([0, 3, TOTAL, TOTAL], dtype=torch.int32)}, ValueError, "sequence 2 is empty"),
        ({"cu_seqlens": torch.tensor([0, 3, 9, TOTAL], dtype=torch.int32)}, ValueError, "even number of sequences"),
        ({"reference": torch.zeros(TOTAL, 3)}, ValueError, r"reference: expected logits \[10, 37\] or log-probs"),
        ({"reference": torch.zeros(3)}, ValueError, "reference: expected sequence log-probs"),
        ({"reference": torch.full((TOTAL,), torch.nan)}, ValueError, "reference: the log-probability of row 0 is NaN"),
        ({"reference": torch.zeros(TOTAL, dtype=torch.int64)}, TypeError, "reference: expected a floating-point"),
        ({"objective": "rebel"}, TypeError, "missing argument 'rewards'"),
        ({"objective": "simpo"}, ValueError, "simpo: takes no reference"),
        ({"objective": "rebel", "reference": None, "rewards": torch.zeros(4)}, ValueError, "needs a reference"),
        ({"objective": "tdpo1", "reference": torch.zeros(TOTAL)}, ValueError, "expected logits"),
        ({"objective": "tdpo1", "inplace_backward": True}, ValueError, "inplace_backward: tdpo1"),
        (
            {"logits": torch.zeros(TOTAL, VOCAB, requires_grad=True), "inplace_backward": True},
            ValueError,
            "found a leaf",
        ),
        ({"logits": torch.full((TOTAL, VOCAB), torch.nan)}, ValueError, "logits: the log-probability of row 0"),
        ({"token_weights": torch.full((TOTAL,), torch.inf)}, ValueError, "token_weights: expected finite"),
        ({"token_weights": "x"}, TypeError, "token_weights: expected a torch.Tensor"),
        (
            {"objective": "grpo", "reference": None, "advantages": [1.0, 2.0, 3.0, 4.0]},
            TypeError,
            "advantages: expected a torch.Tensor",
        ),
        (
            {"objective": "tdpo1", "reference": torch.zeros(TOTAL, VOCAB).half()},
            TypeError,
            "reference: tdpo1 needs both",
        ),
        ({"state": {"x": torch.zeros(())}}, ValueError, "state: expected nothing"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"nonsense": 1}, TypeError, "unknown argument 'nonsense'"),
    ],
)
def test_errors(backend, change, error, message) -> None:
    policy, reference, targets = draw()
    given = {"objective": "sigmoid", "logits": policy, "targets": targets, "cu_seqlens": CU, "reference": reference}
    given |= change
    with pytest.raises(error, match=message):
        fastpref.logits_preference_loss(backend=backend, **given)


def test_a_reference_that_is_the_policy() -> None:
    policy, _, targets = draw()
    for backend in (*STAGED, "eager"):
        out = fastpref.logits_preference_loss("sigmoid", policy, targets, CU, reference=policy, backend=backend)
        assert out.loss == torch.tensor(math.log(2), dtype=torch.float32)
        assert (out.metrics["rewards/margins"], out.metrics["rewards/chosen"]) == (0, 0)
