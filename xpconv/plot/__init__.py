"""Pictures of networks: filters, feature maps, what an answer hangs on, confusions, learning curves.

Each function draws with matplotlib (``pip install "xpconv[plot]"``), into axes that are given or into a new figure, and
gives the figure. Nothing is shown, and no global state is changed. `layer_output`, `input_gradient` and `grad_cam` give
the numbers behind the pictures and need no matplotlib.
"""

from ._charts import confusion_matrix, learning_curves
from ._inspect import grad_cam, input_gradient, layer_output
from ._pictures import class_activation_map, feature_maps, filters, saliency

__all__ = [
    "class_activation_map",
    "confusion_matrix",
    "feature_maps",
    "filters",
    "grad_cam",
    "input_gradient",
    "layer_output",
    "learning_curves",
    "saliency",
]
