"""The arguments of a model by name, as scikit-learn's tools read and change them."""

import inspect
from typing import Any, Self

__all__ = ["WithParameters"]


class WithParameters:
    """An object whose attributes hold the arguments of its constructor, under their names.

    Attributes:
        task: what is learned; None to decide from the target.
    """

    task: Any

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor by name; ``deep`` is scikit-learn's."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor, which the next fit uses.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _parameters(type(self)):
                raise ValueError(
                    f"{name!r} is not one of the parameters {', '.join(_parameters(type(self)))}."
                )
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        kinds = {"regression": "regressor", None: None}
        kind = kinds.get(self.task, "classifier")
        return Tags(
            estimator_type=kind,
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if kind == "classifier" else None,
            regressor_tags=RegressorTags() if kind == "regressor" else None,
            input_tags=InputTags(string=True, categorical=True, allow_nan=True),
        )

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not parameters[name].default and value != parameters[name].default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _parameters(cls: type[WithParameters]) -> list[str]:
    return list(inspect.signature(cls).parameters)
