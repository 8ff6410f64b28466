"""What tests of searches and of bagging share."""

import numpy as np
import pytest


@pytest.fixture
def samples(rng):
    """Inputs of shape (48, 5), and words as labels."""
    x = rng.normal(size=(48, 5)) + 1.0
    return x, np.array(["no", "yes", "maybe"])[(x[:, 0] > 1) + (x[:, 1] > 1).astype(int)]


@pytest.fixture
def stacks(monkeypatch):
    """The sizes of the stacks that are fitted."""
    from bp_xp.estimators import _search  # where scikit-learn is installed

    sizes, fit = [], _search.fit_stack

    def kept(estimators, *more):
        sizes.append(len(estimators))
        return fit(estimators, *more)

    monkeypatch.setattr(_search, "fit_stack", kept)
    return sizes
