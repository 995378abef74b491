"""What the paper's estimator is asked to try."""

import pytest

from app.methods import PAPER_RATES, papers_trials
from app.request import Request


@pytest.mark.parametrize(
    ("request_", "epochs", "trials"),
    [
        (Request("paper"), 40, [("mean", 0.3), ("mean", 1.0)]),
        (Request("paper", start="random", learning_rates=(0.5,), epochs=7), 7, [("random", 0.5)]),
        (
            Request("paper", start="both", learning_rates=(0.1, 0.3, 1.0, 0.3), epochs=100),
            100,
            [(start, rate) for start in ("mean", "random") for rate in (0.1, 0.3, 1.0)],
        ),
    ],
    ids=["as it is", "one", "the paper's"],
)
def test_every_start_is_tried_at_every_rate(request_, epochs, trials):
    request_.check()
    found = papers_trials(request_)
    assert [(trial.start, trial.learning_rate) for trial in found] == trials
    assert {trial.epochs for trial in found} == {epochs}
    assert {trial.batch for trial in found} == {1}
    assert {trial.loss for trial in found} == {"mixed"}


def test_its_rates_are_the_papers():
    assert all(0.1 <= rate <= 1 for rate in PAPER_RATES)
