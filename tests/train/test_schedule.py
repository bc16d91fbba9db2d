import pytest

from fastpref.train.schedule import learning_rate


def rates(schedule, warmup, total=10):
    return [learning_rate(s, peak=2.0, schedule=schedule, warmup=warmup, total=total) for s in range(total)]


def test_warmup_rises_to_the_peak():
    assert rates("constant", 4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert rates("constant", 0.2) == [1.0] + [2.0] * 9
    assert rates("constant", 0) == [2.0] * 10


def test_linear_and_cosine_end_at_zero_after_the_last_step():
    linear, cosine = rates("linear", 0), rates("cosine", 0)
    assert linear == pytest.approx([2.0 * (1 - s / 10) for s in range(10)])
    assert cosine[0] == 2.0
    assert cosine[5] == pytest.approx(1.0)
    assert 0 < cosine[-1] < linear[-1]


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0, 0.1, 0.9, 1, 5])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_short_runs_always_learn_something(schedule, warmup, total):
    assert all(0 < rate <= 2.0 for rate in rates(schedule, warmup, total))
