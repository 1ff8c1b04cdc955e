"""What the course's notebooks print or expect, to the errors that they ask for, on every backend with float64.

The numbers have eight digits; each is also computed here in another way, which says that it is right.
"""

import numpy as np
import pytest

from xpconv.cs231n import layers, optim
from xpconv.cs231n.classifiers import FullyConnectedNet, ThreeLayerConvNet, TwoLayerNet
from xpconv.cs231n.gradient_check import eval_numerical_gradient, eval_numerical_gradient_array, rel_error
from xpconv.testing import naive

# ruff: noqa: NPY002 - the course draws its numbers from NumPy's global generator

CONV = [
    [
        [[-0.08759809, -0.10987781], [-0.18387192, -0.2109216]],
        [[0.21027089, 0.21661097], [0.22847626, 0.23004637]],
        [[0.50813986, 0.54309974], [0.64082444, 0.67101435]],
    ],
    [
        [[-0.98053589, -1.03143541], [-1.19128892, -1.24695841]],
        [[0.69108355, 0.66880383], [0.59480972, 0.56776003]],
        [[2.36270298, 2.36904306], [2.38090835, 2.38247847]],
    ],
]
POOL = [
    [
        [[-0.26315789, -0.24842105], [-0.20421053, -0.18947368]],
        [[-0.14526316, -0.13052632], [-0.08631579, -0.07157895]],
        [[-0.02736842, -0.01263158], [0.03157895, 0.04631579]],
    ],
    [
        [[0.09052632, 0.10526316], [0.14947368, 0.16421053]],
        [[0.20842105, 0.22315789], [0.26736842, 0.28210526]],
        [[0.32631579, 0.34105263], [0.38526316, 0.4]],
    ],
]


def test_conv_forward_naive(float64, space):
    x, w, b = space(-0.1, 0.5, 2, 3, 4, 4), space(-0.2, 0.3, 3, 3, 4, 4), space(-0.1, 0.2, 3)
    out, _ = layers.conv_forward_naive(x, w, b, {"stride": 2, "pad": 1})
    assert rel_error(out, np.array(CONV)) < 1e-7
    other = naive.conv2d(*(float64.to_numpy(a) for a in (x, w, b)), stride=(2, 2), padding=((1, 1), (1, 1)))
    assert rel_error(out, other) < 1e-12


def test_conv_backward_naive():
    np.random.seed(231)
    x, w, b = np.random.randn(4, 3, 5, 5), np.random.randn(2, 3, 3, 3), np.random.randn(2)
    dout, conv_param = np.random.randn(4, 2, 5, 5), {"stride": 1, "pad": 1}
    _, cache = layers.conv_forward_naive(x, w, b, conv_param)
    dx, dw, db = layers.conv_backward_naive(dout, cache)
    dw_numerical = eval_numerical_gradient_array(lambda w: layers.conv_forward_naive(x, w, b, conv_param)[0], w, dout)
    db_numerical = eval_numerical_gradient_array(lambda b: layers.conv_forward_naive(x, w, b, conv_param)[0], b, dout)
    assert rel_error(dw, dw_numerical) < 1e-9  # 2.2e-10 in the notebook
    assert rel_error(db, db_numerical) < 1e-9  # 3.4e-11
    want = naive.conv2d_backward(dout, x, w, padding=((1, 1), (1, 1)))
    for got, expected in zip((dx, dw, db), want, strict=True):
        assert rel_error(got, expected) < 1e-8  # of the largest relative error; differences are of rounding
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_max_pool_forward_naive(space):
    out, _ = layers.max_pool_forward_naive(
        space(-0.3, 0.4, 2, 3, 4, 4), {"pool_width": 2, "pool_height": 2, "stride": 2}
    )
    assert rel_error(out, np.array(POOL)) < 1e-7
    # evenly spaced numbers grow, so the last pixel of each window is its maximum
    assert rel_error(out, np.linspace(-0.3, 0.4, 96).reshape(2, 3, 4, 4)[:, :, 1::2, 1::2]) < 1e-15


def test_affine_forward(space):
    out, _ = layers.affine_forward(space(-0.1, 0.5, 2, 4, 5, 6), space(-0.2, 0.3, 120, 3), space(-0.3, 0.1, 3))
    want = np.array([[1.49834967, 1.70660132, 1.91485297], [3.25553199, 3.5141327, 3.77273342]])
    assert rel_error(out, want) < 1e-8


def test_relu_forward(space):
    out, _ = layers.relu_forward(space(-0.5, 0.5, 3, 4))
    want = np.array([[0, 0, 0, 0], [0, 0, 0.04545455, 0.13636364], [0.22727273, 0.31818182, 0.40909091, 0.5]])
    assert rel_error(out, want) < 5e-8


@pytest.mark.parametrize(
    ("loss", "want", "error"),
    [("svm_loss", 8.999602749096235, 1.4021566006651672e-09), ("softmax_loss", 2.302545844500738, 8e-09)],
)
def test_losses(loss, want, error, float64):
    np.random.seed(231)
    scores, labels = 0.001 * np.random.randn(50, 10), np.random.randint(10, size=50)
    got, dx = getattr(layers, loss)(float64.asarray(scores), float64.asarray(labels))
    assert float(got) == pytest.approx(want, rel=1e-12)
    if float64.id == "numpy":  # 500 numbers, one after the other
        numerical = eval_numerical_gradient(lambda x: getattr(layers, loss)(x, labels)[0], scores, verbose=False)
        assert rel_error(numerical, dx) < 1.5 * error  # the noise of differences: it moves with the last digits


# ---- update rules -----------------------------------------------------------------------------------------------

TABLES = {
    "sgd_momentum": (
        {"learning_rate": 1e-3, "velocity": (0.6, 0.9)},
        [
            [0.1406, 0.20738947, 0.27417895, 0.34096842, 0.40775789],
            [0.47454737, 0.54133684, 0.60812632, 0.67491579, 0.74170526],
            [0.80849474, 0.87528421, 0.94207368, 1.00886316, 1.07565263],
            [1.14244211, 1.20923158, 1.27602105, 1.34281053, 1.4096],
        ],
        {
            "velocity": [
                [0.5406, 0.55475789, 0.56891579, 0.58307368, 0.59723158],
                [0.61138947, 0.62554737, 0.63970526, 0.65386316, 0.66802105],
                [0.68217895, 0.69633684, 0.71049474, 0.72465263, 0.73881053],
                [0.75296842, 0.76712632, 0.78128421, 0.79544211, 0.8096],
            ]
        },
    ),
    "rmsprop": (
        {"learning_rate": 1e-2, "cache": (0.6, 0.9)},
        [
            [-0.39223849, -0.34037513, -0.28849239, -0.23659121, -0.18467247],
            [-0.132737, -0.08078555, -0.02881884, 0.02316247, 0.07515774],
            [0.12716641, 0.17918792, 0.23122175, 0.28326742, 0.33532447],
            [0.38739248, 0.43947102, 0.49155973, 0.54365823, 0.59576619],
        ],
        {
            "cache": [
                [0.5976, 0.6126277, 0.6277108, 0.64284931, 0.65804321],
                [0.67329252, 0.68859723, 0.70395734, 0.71937285, 0.73484377],
                [0.75037008, 0.7659518, 0.78158892, 0.79728144, 0.81302936],
                [0.82883269, 0.84469141, 0.86060554, 0.87657507, 0.8926],
            ]
        },
    ),
    "adam": (
        {"learning_rate": 1e-2, "m": (0.6, 0.9), "v": (0.7, 0.5), "t": 5},
        [
            [-0.40094747, -0.34836187, -0.29577703, -0.24319299, -0.19060977],
            [-0.1380274, -0.08544591, -0.03286534, 0.01971428, 0.0722929],
            [0.1248705, 0.17744702, 0.23002243, 0.28259667, 0.33516969],
            [0.38774145, 0.44031188, 0.49288093, 0.54544852, 0.59801459],
        ],
        {
            "m": [
                [0.48, 0.49947368, 0.51894737, 0.53842105, 0.55789474],
                [0.57736842, 0.59684211, 0.61631579, 0.63578947, 0.65526316],
                [0.67473684, 0.69421053, 0.71368421, 0.73315789, 0.75263158],
                [0.77210526, 0.79157895, 0.81105263, 0.83052632, 0.85],
            ],
            "v": [
                [0.69966, 0.68908382, 0.67851319, 0.66794809, 0.65738853],
                [0.64683452, 0.63628604, 0.6257431, 0.61520571, 0.60467385],
                [0.59414753, 0.58362676, 0.57311152, 0.56260183, 0.55209767],
                [0.54159906, 0.53110598, 0.52061845, 0.51013645, 0.49966],
            ],
        },
    ),
}


@pytest.mark.parametrize("rule", TABLES)
def test_update_rule(rule, float64, space):
    settings, next_w, states = TABLES[rule]
    config = {name: space(*value, 4, 5) if isinstance(value, tuple) else value for name, value in settings.items()}
    got, after = getattr(optim, rule)(space(-0.4, 0.6, 4, 5), space(-0.6, 0.4, 4, 5), config)
    assert rel_error(got, np.array(next_w)) < 2e-7  # 1.1e-7 in the notebook: the table is rounded
    np.testing.assert_allclose(float64.to_numpy(got), next_w, rtol=0, atol=5.1e-9)
    for name, values in states.items():
        assert rel_error(after[name], np.array(values)) < 1e-8
    if rule == "adam":
        assert after["t"] == 6


# ---- networks ---------------------------------------------------------------------------------------------------


@pytest.fixture
def two_layers(space):
    net = TwoLayerNet(input_dim=5, hidden_dim=50, num_classes=7)
    net.params["W1"], net.params["b1"] = space(-0.7, 0.3, 5, 50), space(-0.1, 0.9, 50)
    net.params["W2"], net.params["b2"] = space(-0.3, 0.4, 50, 7), space(-0.9, 0.1, 7)
    return net


def test_two_layer_net(two_layers, float64):
    X = float64.asarray(np.linspace(-5.5, 4.5, num=15).reshape(5, 3).T)
    y = float64.asarray([0, 5, 1])
    want = np.array(
        [
            [11.53165108, 12.2917344, 13.05181771, 13.81190102, 14.57198434, 15.33206765, 16.09215096],
            [12.05769098, 12.74614105, 13.43459113, 14.1230412, 14.81149128, 15.49994135, 16.18839143],
            [12.58373087, 13.20054771, 13.81736455, 14.43418138, 15.05099822, 15.66781506, 16.2846319],
        ]
    )
    scores = float64.to_numpy(two_layers.loss(X))
    assert np.abs(scores - want).sum() < 1e-6
    assert float(two_layers.loss(X, y)[0]) == pytest.approx(3.4702243556, abs=1e-10)
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert float(two_layers.loss(X, y)[0]) == pytest.approx(-np.log(probabilities[range(3), [0, 5, 1]]).mean())
    two_layers.reg = 1.0
    assert float(two_layers.loss(X, y)[0]) == pytest.approx(26.5948426952, abs=1e-10)


@pytest.mark.parametrize("reg", [0.0, 0.7])
def test_gradients_of_the_two_layer_net(reg):
    np.random.seed(231)
    net = TwoLayerNet(input_dim=5, hidden_dim=50, num_classes=7, weight_scale=1e-1, reg=reg)
    X, y = np.linspace(-5.5, 4.5, num=15).reshape(5, 3).T, np.array([0, 5, 1])
    _, grads = net.loss(X, y)
    assert set(grads) == set(net.params)
    for name, gradient in grads.items():
        numerical = eval_numerical_gradient(lambda _: net.loss(X, y)[0], net.params[name], verbose=False)
        assert rel_error(numerical, gradient) < 1e-6, name
        np.testing.assert_allclose(gradient, numerical, rtol=0, atol=1e-9)


# (arguments, loss without and with reg = 3.14): both nets draw on from one seed
FIRST_LOSSES = [
    ({}, (2.3004790897684924, 7.052114776533016)),
    ({"normalization": "batchnorm"}, (2.2611955101340957, 6.996533220108303)),
]


@pytest.mark.parametrize(("arguments", "losses"), FIRST_LOSSES, ids=["plain", "batchnorm"])
def test_first_losses_of_the_fully_connected_net(arguments, losses, float64):
    np.random.seed(231)
    X, y = float64.asarray(np.random.randn(2, 15)), float64.asarray(np.random.randint(10, size=2))
    for reg, want in zip((0, 3.14), losses, strict=True):
        net = FullyConnectedNet(
            [20, 30], input_dim=15, num_classes=10, reg=reg, weight_scale=5e-2, dtype=np.float64, **arguments
        )
        assert float(net.loss(X, y)[0]) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("name", ["dropout_keep_ratio", "dropout"])
def test_first_losses_with_dropout(name, float64):
    np.random.seed(231)
    X, y = float64.asarray(np.random.randn(2, 15)), float64.asarray(np.random.randint(10, size=2))
    for keep, want in ((1, 2.3004790897684924), (0.75, 2.302371489704412), (0.5, 2.3042759220785896)):
        net = FullyConnectedNet([20, 30], 15, 10, weight_scale=5e-2, dtype=np.float64, seed=123, **{name: keep})
        assert float(net.loss(X, y)[0]) == pytest.approx(want, rel=1e-12)


NETS = [
    {},
    {"reg": 3.14},
    {"normalization": "batchnorm", "reg": 3.14},
    {"normalization": "layernorm"},
    {"dropout_keep_ratio": 0.75, "normalization": "batchnorm"},
]


@pytest.mark.parametrize("arguments", NETS, ids=lambda a: "-".join(map(str, a.values())) or "plain")
def test_gradients_of_the_fully_connected_net(arguments):
    np.random.seed(231)
    X, y = np.random.randn(6, 15), np.random.randint(10, size=6)
    net = FullyConnectedNet(
        [10, 12], input_dim=15, num_classes=10, weight_scale=2e-1, dtype=np.float64, seed=123, **arguments
    )
    _, grads = net.loss(X, y)
    assert set(grads) == set(net.params)
    for name, gradient in grads.items():
        numerical = eval_numerical_gradient(lambda _: net.loss(X, y)[0], net.params[name], verbose=False)
        np.testing.assert_allclose(gradient, numerical, rtol=1e-6, atol=1e-9, err_msg=name)


# largest relative errors that the notebook prints, with steps of 1e-6
CONV_NET_ERRORS = {
    "W1": 1.380104e-04, "W2": 1.822723e-02, "W3": 3.064049e-04,
    "b1": 3.477652e-05, "b2": 2.516375e-03, "b3": 7.945660e-10,
}  # fmt: skip


def test_three_layer_conv_net():
    np.random.seed(231)
    X, y = np.random.randn(2, 3, 16, 16), np.random.randint(10, size=2)
    net = ThreeLayerConvNet((3, 16, 16), num_filters=3, filter_size=3, hidden_dim=7, dtype=np.float64)
    loss, grads = net.loss(X, y)
    assert float(loss) == pytest.approx(np.log(10), abs=1e-4)  # scores of about zero
    for name, gradient in grads.items():
        part = net.params[name][:40]  # a view; of W2 (192, 7) not all numbers, which would take long
        numerical = eval_numerical_gradient(lambda _: net.loss(X, y)[0], part, verbose=False, h=1e-6)
        np.testing.assert_allclose(gradient[:40], numerical, rtol=0, atol=1e-6, err_msg=name)  # a kink of ReLU is near
        assert rel_error(numerical, gradient[:40]) < 2 * CONV_NET_ERRORS[name], name


def test_loss_of_the_default_conv_net_with_and_without_penalty(rng):
    np.random.seed(0)
    net = ThreeLayerConvNet()
    X, y = rng.standard_normal((5, 3, 32, 32), dtype=np.float32), rng.integers(10, size=5)
    assert float(net.loss(X, y)[0]) == pytest.approx(np.log(10), abs=1e-3)  # 2.302586 in the notebook
    net.reg = 0.5
    # 100 * 8192 + 32 * 147 + 1000 weights of variance 1e-6: a quarter of their sum; 2.508 in the notebook
    assert float(net.loss(X, y)[0]) == pytest.approx(np.log(10) + 0.2063, abs=2e-3)
