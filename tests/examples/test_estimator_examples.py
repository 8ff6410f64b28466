"""The example of the estimators, run alone as the others are."""

import re

import pytest
from test_examples import numbers, run

pytest.importorskip("sklearn")


def figures(text):
    """Return the figures that the example prints, by what they are of."""
    return {
        "off": float(re.search(r"largest relative difference.*: (\S+)$", text, re.MULTILINE)[1]),
        "right": [numbers(line)[1] for line in text.splitlines() if re.match("theirs|ours", line)],
        "unseen": float(re.search(r"not seen: (\S+)%", text)[1]),
        "back": float(re.search(r"differ by (\S+) at most", text)[1]),
    }


def test_swapped_import_is_the_same_run(tmp_path):
    text = run(tmp_path, "swap_the_import.py")
    found = figures(text)
    assert found["off"] < 1e-9  # rounding of float64: 1e-15 here
    assert found["right"][0] == found["right"][1] > 97
    assert found["unseen"] > 95
    assert found["back"] < 1e-12
    assert "back as sklearn.MLPClassifier" in text


def test_swapped_import_takes_a_device_and_a_dtype(tmp_path):
    pytest.importorskip("torch")
    text = run(tmp_path, "swap_the_import.py", "--backend", "torch", "--dtype", "float32")
    found = figures(text)
    assert found["off"] < 1e-3
    assert abs(found["right"][0] - found["right"][1]) < 1.0
    assert found["back"] < 1e-5
