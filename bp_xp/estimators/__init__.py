"""scikit-learn's multi-layer perceptrons on any device: drop-in replacements.

    from bp_xp.estimators import MLPClassifier  # was: from sklearn.neural_network import ...

:class:`MLPClassifier` and :class:`MLPRegressor` have the parameters, attributes and methods of
scikit-learn's classes, and give the same run with the same ``random_state``: weights are drawn and
samples are shuffled in the same way. The new parameters begin with ``device=``.

Differences beyond rounding:

- The log-loss is computed from the weighted inputs, while scikit-learn clips probabilities. So it
  distinguishes outputs that are far from their targets from those that are even farther.
- A run that is no longer finite ends at the end of the epoch: in the same ``ValueError``, or with
  ``early_stopping`` in a warning and the best weights. scikit-learn continues until ``max_iter``.
- ``solver="lbfgs"`` with several outputs uses the gradient of its cost; scikit-learn's cost is a
  mean over outputs and its gradient that of the sum. ``loss_`` is the mean in both.
- Parameters keep their initial dtype, and predictions have it; scikit-learn uses the dtype of the
  samples of each call.
- Some arguments that scikit-learn accepts are errors, because they can't be intended: negative
  weights, ``loss="poisson"`` with negative targets, and another ``hidden_layer_sizes`` between two
  warm starts (scikit-learn continues with the old shape).
- ``predict_proba`` has a column for each of ``classes_``; scikit-learn's has two for one class.
- A change of ``early_stopping`` between two warm starts takes effect; scikit-learn fails.
- With ``warm_start`` and ``early_stopping``, a second fit that does not improve the score returns
  the best parameters of the first; in scikit-learn they have been overwritten.
- On another device, change weights in ``coefs_`` by assigning an array; writing into one of them
  has an effect only on the CPU.

Needs scikit-learn: the extra ``bp_xp[sklearn]``.
"""

from bp_xp._optional import require

require("sklearn", "sklearn")

# These modules import it, so they come after the check.
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
