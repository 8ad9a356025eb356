import numpy as np
import pytest

from skdvl.datasets import flip_labels


def test_flipped_labels_are_other_labels():
    y = np.array(["a", "b", "c"])[np.arange(90) % 3]
    noisy, is_flipped = flip_labels(y, 0.2, random_state=0)
    assert is_flipped.sum() == 18
    np.testing.assert_array_equal(noisy != y, is_flipped)
    assert set(noisy[is_flipped]) == {"a", "b", "c"}
    again, _ = flip_labels(y, 0.2, random_state=0)
    np.testing.assert_array_equal(noisy, again)


def test_bad_input():
    with pytest.raises(ValueError, match="single class"):
        flip_labels([1, 1])
    with pytest.raises(ValueError, match="share"):
        flip_labels([0, 1], 1.5)
