import importlib.util

import pytest


@pytest.fixture
def loaded():
    """Return a function that imports a file as a module."""

    def load(path):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
