"""Estimators for scikit-learn: convolutional networks in pipelines, searches and cross-validation.

They need scikit-learn 1.6 or newer: ``pip install "xpconv[sklearn]"``.
"""

from .._extras import require

require("sklearn", "the estimators of xpconv.sklearn", extra="sklearn")

from ._classifier import ConvNetClassifier  # noqa: E402
from ._regressor import ConvNetRegressor  # noqa: E402

__all__ = ["ConvNetClassifier", "ConvNetRegressor"]
