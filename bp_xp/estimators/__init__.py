"""scikit-learn's multi-layer perceptrons on any device: change the import, keep the program.

    from bp_xp.estimators import MLPClassifier  # was: from sklearn.neural_network import ...

:class:`MLPClassifier` and :class:`MLPRegressor` have the parameters, attributes and methods of
scikit-learn's classes, and with the same ``random_state`` give the same run: weights are drawn and
samples are shuffled as there. What is new begins with ``device=``.

What differs, beyond rounding:

- The log-loss is computed from the weighted inputs, where scikit-learn clips probabilities: it
  tells apart outputs that are wrong by far from those that are wrong by farther.
- A run that is no longer finite ends at the end of the epoch: in the same ``ValueError``, or with
  ``early_stopping`` in a warning and the best weights. scikit-learn goes on until ``max_iter``.
- ``solver="lbfgs"`` with several outputs is given the gradient of its cost; scikit-learn's cost is
  a mean over outputs and its gradient that of the sum. ``loss_`` is the mean in both.
- Parameters keep the dtype that they began with, and predictions have it, where scikit-learn goes
  by the samples of each call.
- Where scikit-learn takes what can't be meant, there is an error: negative weights,
  ``loss="poisson"`` with negative targets, another ``hidden_layer_sizes`` between two warm starts
  (scikit-learn goes on with the old shape).
- ``predict_proba`` has a column for each of ``classes_``; scikit-learn's has two for one class.
- A change of ``early_stopping`` between two warm starts is taken up; scikit-learn fails.
- With ``warm_start`` and ``early_stopping``, a second fit that does not improve the score returns
  the best parameters of the first; scikit-learn's are overwritten meanwhile.
- On another device, weights in ``coefs_`` are changed by assigning an array; what is written into
  one of them counts on the CPU only.

Needs scikit-learn: the extra ``bp_xp[sklearn]``.
"""

from bp_xp._optional import require

require("sklearn", "sklearn")

# Only now: these modules import it.
from bp_xp.estimators._bagging import BaggingClassifier, BaggingRegressor  # noqa: E402
from bp_xp.estimators._classifier import MLPClassifier  # noqa: E402
from bp_xp.estimators._conversion import from_sklearn, to_network, to_sklearn  # noqa: E402
from bp_xp.estimators._regressor import MLPRegressor  # noqa: E402
from bp_xp.estimators._search import GridSearchCV, RandomizedSearchCV  # noqa: E402

__all__ = [
    "BaggingClassifier",
    "BaggingRegressor",
    "GridSearchCV",
    "MLPClassifier",
    "MLPRegressor",
    "RandomizedSearchCV",
    "from_sklearn",
    "to_network",
    "to_sklearn",
]
