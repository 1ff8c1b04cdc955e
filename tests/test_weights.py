"""Weights in files: what PyTorch reads and writes, other dtypes and backends, and files that do not fit or attack."""

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import xpconv
from xpconv import _safetensors, layers, models
from xpconv.backends import use_backend
from xpconv.weights import LoadedWeights, WeightsError


def make(rng=0, dtype="float32", classes=3):
    return layers.Sequential(
        {
            "conv": layers.Conv2d(2, 4, 3, rng=rng, dtype=dtype),
            "bn": layers.BatchNorm2d(4, dtype=dtype),
            "relu": layers.ReLU(),
            "flatten": layers.Flatten(),
            "fc": layers.Linear(16, classes, rng=rng, dtype=dtype),
        }
    )


def host(network):
    return {name: xpconv.to_numpy(array) for name, array in network.state_dict().items()}


def assert_equal(network, state):
    found = host(network)
    assert found.keys() == state.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture
def file(tmp_path):
    """Weights of `make`, not those that it starts with."""
    network = make(7)
    network(np.random.default_rng(1).normal(size=(5, 2, 4, 4)).astype(np.float32))
    xpconv.save_weights(network, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors", host(network)


def test_round_trip(file):
    path, state = file
    network = make()
    result = xpconv.load_weights(network, path)
    assert result == LoadedWeights(list(state), [], [], {})
    assert str(result) == "loaded: 9"
    assert_equal(network, state)
    assert network.bn.num_batches_tracked == 1


def test_between_backends(on, tmp_path):
    """From the backend to NumPy, and from NumPy to the backend."""
    network = make(7)
    xpconv.save_weights(network, tmp_path / "there")
    with use_backend("numpy"):
        plain = make(8)
        xpconv.load_weights(plain, tmp_path / "there")
        assert_equal(plain, host(network))
        xpconv.save_weights(make(9), tmp_path / "back")
        want = host(make(9))
    xpconv.load_weights(network, tmp_path / "back")
    assert_equal(network, want)
    assert xpconv.backends.backend_of(w=network.conv.weight.data) is xpconv.get_backend()


def test_strided_parameters_are_written_as_they_are(tmp_path):
    """safetensors takes the memory of a strided array as if it were in order; PyTorch reads ours rightly."""
    values = np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)
    network = make()
    network.fc.weight.data = values.T  # Fortran's order
    network.conv.bias.data = np.arange(8, dtype=np.float32)[::-2]
    xpconv.save_weights(network, tmp_path / "w.safetensors")
    other = make(1)
    xpconv.load_weights(other, tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.fc.weight.data, values.T)
    package = pytest.importorskip("safetensors.torch")
    np.testing.assert_array_equal(package.load_file(tmp_path / "w.safetensors")["fc.weight"].numpy(), values.T)


def test_a_folder_that_is_missing_is_named_once(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        xpconv.save_weights(layers.Linear(2, 2), tmp_path / "no" / "w.safetensors")
    assert str(caught.value) == f"[Errno 2] No such file or directory: '{tmp_path}/no/w.safetensors'"


def test_an_earlier_file_is_replaced_whole_or_not_at_all(file, monkeypatch):
    path, state = file

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            xpconv.save_weights(make(3), path)
    assert os.listdir(path.parent) == [path.name]
    network = make()
    xpconv.load_weights(network, path)
    assert_equal(network, state)


# ---- PyTorch ----------------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reads and writes files of PyTorch")


@pytest.fixture
def twin(torch):
    nn = torch.nn
    torch.manual_seed(3)
    names = ("conv", "bn", "relu", "flatten", "fc")
    parts = (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    net = nn.Sequential()
    for name, part in zip(names, parts, strict=True):
        net.add_module(name, part)
    net(torch.randn(5, 2, 4, 4))
    return net


def of_torch(state):
    return {name: tensor.detach().float().numpy() if tensor.is_floating_point() else tensor.numpy()
            for name, tensor in state.items()}  # fmt: skip


X = np.random.default_rng(5).normal(size=(3, 2, 4, 4)).astype(np.float32)


def test_torch_reads_ours(torch, twin, file):
    package = pytest.importorskip("safetensors.torch")
    path, _ = file
    result = twin.load_state_dict(package.load_file(path))
    assert not result.missing_keys
    assert not result.unexpected_keys
    network = make()
    xpconv.load_weights(network, path)
    with torch.no_grad():
        want = twin.eval()(torch.tensor(X)).numpy()
    np.testing.assert_allclose(network.eval()(X), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_we_read_safetensors_of_torch(torch, twin, tmp_path):
    package = pytest.importorskip("safetensors.torch")
    package.save_file(twin.state_dict(), tmp_path / "model.safetensors")
    network = make()
    xpconv.load_weights(network, tmp_path / "model.safetensors")
    assert_equal(network, of_torch(twin.state_dict()))


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "no-suffix"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dict_of_torch(torch, twin, tmp_path, name, zipped):
    torch.save(twin.state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    network = make()
    xpconv.load_weights(network, tmp_path / name)
    assert_equal(network, of_torch(twin.state_dict()))
    with torch.no_grad():
        want = twin.eval()(torch.tensor(X)).numpy()
    np.testing.assert_allclose(network.eval()(X), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_strided_tensors_of_torch(torch, twin, tmp_path):
    state = dict(twin.state_dict())
    state["fc.weight"] = torch.randn(16, 3).T
    state["conv.weight"] = torch.randn(4, 2, 3, 3).to(memory_format=torch.channels_last)
    state["conv.bias"] = torch.ones(1).expand(4)
    torch.save(state, tmp_path / "w.pt")
    network = make()
    xpconv.load_weights(network, tmp_path / "w.pt")
    assert_equal(network, of_torch(state))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "weights"])
def test_checkpoints_of_torch(torch, twin, tmp_path, key):
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    contents = {"epoch": 3, "loss": torch.tensor(0.5), "optimizer": optimizer.state_dict(), key: twin.state_dict()}
    torch.save(contents, tmp_path / "checkpoint.pth.tar")
    network = make()
    xpconv.load_weights(network, tmp_path / "checkpoint.pth.tar")
    assert_equal(network, of_torch(twin.state_dict()))


def test_another_key(torch, twin, tmp_path):
    averaged = {name: tensor * 0 for name, tensor in twin.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": twin.state_dict(), "ema": averaged}, tmp_path / "a")
    network = make()
    xpconv.load_weights(network, tmp_path / "a", key="ema")
    assert_equal(network, of_torch(averaged))
    with pytest.raises(WeightsError, match="no state_dict under 'emma'; there are epoch, state_dict, ema"):
        xpconv.load_weights(network, tmp_path / "a", key="emma")
    torch.save({"epoch": 3, "ema": averaged}, tmp_path / "b")
    with pytest.raises(WeightsError, match="there are epoch, ema; key='ema' takes the one there"):
        xpconv.load_weights(network, tmp_path / "b")


def test_data_parallel(torch, twin, tmp_path):
    torch.save(torch.nn.DataParallel(twin).state_dict(), tmp_path / "w.pth")
    network = make()
    before = host(network)
    with pytest.raises(WeightsError, match=r"behind 'module\.': prefix='module\.' takes it off"):
        xpconv.load_weights(network, tmp_path / "w.pth")
    assert_equal(network, before)
    xpconv.load_weights(network, tmp_path / "w.pth", prefix="module.")
    assert_equal(network, of_torch(twin.state_dict()))


def test_half_precision_of_torch(torch, twin, tmp_path):
    """Both kinds go into float32 exactly."""
    for dtype in (torch.float16, torch.bfloat16):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in twin.state_dict().items()}
        torch.save(state, tmp_path / "w.pt")
        network = make()
        xpconv.load_weights(network, tmp_path / "w.pt")
        assert_equal(network, of_torch(state))


def test_bfloat16_models(torch, tmp_path):
    """A model in bfloat16 is written as such, and read into one of bfloat16 or of float32 exactly."""
    package = pytest.importorskip("safetensors.torch")
    with use_backend("torch"):
        network = make(4).to(dtype="bfloat16")
        xpconv.save_weights(network, tmp_path / "w")
        saved = package.load_file(tmp_path / "w")
        assert {str(tensor.dtype) for tensor in saved.values()} == {"torch.bfloat16", "torch.int64"}
        other = make(5).to(dtype="bfloat16")
        xpconv.load_weights(other, tmp_path / "w")
        assert_equal(other, host(network))
        xpconv.save_weights(make(6), tmp_path / "wide")
        with pytest.raises(WeightsError, match="float32 would be rounded to bfloat16"):
            xpconv.load_weights(other, tmp_path / "wide")
    wide = make()
    xpconv.load_weights(wide, tmp_path / "w")
    assert_equal(wide, host(network))


def test_without_torch(torch, twin, tmp_path, monkeypatch):
    torch.save(twin.state_dict(), tmp_path / "w.pth")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"w\.pth: a file of PyTorch takes the package torch, .* pip install torch"):
        xpconv.load_weights(make(), tmp_path / "w.pth")


def test_it_takes_no_optional_package(file):
    path, _ = file
    blocked = ("torch", "safetensors", "jax", "PIL", "rich", "matplotlib", "ml_dtypes")
    code = (
        f"import sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "import xpconv\nnet = xpconv.layers.Sequential({'fc': xpconv.layers.Linear(16, 3)})\n"
        "print(xpconv.load_weights(net, sys.argv[1], strict=False).loaded)\n"
        "xpconv.save_weights(net, sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['fc.weight', 'fc.bias']"


def test_resnet18_from_torchvision_names(torch, tmp_path):
    """A network of `models`, whose last layer is new: fine-tuning."""
    state = {k: torch.from_numpy(v) for k, v in models.resnet18(11, rng=0).state_dict().items()}
    torch.save(state, tmp_path / "resnet18.pth")
    network = models.resnet18(4, rng=1)
    with pytest.raises(WeightsError, match=r"fc.weight: \(11, 512\) in the file, \(4, 512\) in the model"):
        xpconv.load_weights(network, tmp_path / "resnet18.pth")
    result = xpconv.load_weights(network, tmp_path / "resnet18.pth", strict=False)
    assert list(result.mismatched) == ["fc.weight", "fc.bias"]
    assert len(result.loaded) == 120
    np.testing.assert_array_equal(network.layer4[1].conv2.weight.data, state["layer4.1.conv2.weight"].numpy())


# ---- what does not fit ------------------------------------------------------------------------------------------


def test_strict_lists_everything_and_changes_nothing(file):
    path, _ = file
    network = make(classes=5)
    del network.conv
    network.first = layers.Conv2d(2, 4, 3, rng=0)
    before = host(network)
    with pytest.raises(WeightsError) as caught:
        xpconv.load_weights(network, path)
    assert str(caught.value) == (
        f"{path}: does not fit Sequential:\n"
        "  missing: first.weight, first.bias\n"
        "  unexpected: conv.weight, conv.bias\n"
        "  of another shape:\n"
        "    fc.weight: (3, 16) in the file, (5, 16) in the model\n"
        "    fc.bias: (3,) in the file, (5,) in the model"
    )
    assert_equal(network, before)


def test_not_strict_loads_what_fits(file):
    path, state = file
    network = make(classes=5)
    del network.conv
    network.first = layers.Conv2d(2, 4, 3, rng=0)
    before = host(network)
    result = xpconv.load_weights(network, path, strict=False)
    assert result.missing == ["first.weight", "first.bias"]
    assert sorted(result.unexpected) == ["conv.bias", "conv.weight"]
    assert result.mismatched == {
        "fc.weight": "(3, 16) in the file, (5, 16) in the model",
        "fc.bias": "(3,) in the file, (5,) in the model",
    }
    assert [name.split(".")[0] for name in result.loaded] == ["bn"] * 5
    assert "loaded: 5\nmissing: first.weight, first.bias\nunexpected: " in str(result)
    assert_equal(network, {**before, **{name: state[name] for name in result.loaded}})


def test_not_strict_with_nothing_that_fits(file):
    path, _ = file
    with pytest.raises(WeightsError, match="nothing of it fits\n  missing: weight, bias"):
        xpconv.load_weights(layers.Linear(2, 2), path, strict=False)


def test_prefix(file, tmp_path):
    """Names that begin with something else are passed over."""
    _, state = file
    more = {f"net.{name}": array for name, array in state.items()} | {"optimizer.0": np.zeros(3)}
    (tmp_path / "more").write_bytes(b"".join(_safetensors.encode(more, {})))
    network = make()
    xpconv.load_weights(network, tmp_path / "more", prefix="net.")
    assert_equal(network, state)
    with pytest.raises(WeightsError, match="missing"):
        xpconv.load_weights(network, tmp_path / "more", prefix="ne.")


def test_from_a_checkpoint_of_the_trainer(tmp_path):
    network = make(2)
    trainer = xpconv.Trainer(
        network, xpconv.functional.softmax_cross_entropy, xpconv.optim.SGD(network.parameters(), lr=0.1)
    )
    trainer.save(tmp_path / "last.safetensors")
    other = make(3)
    with pytest.raises(WeightsError, match=r"prefix='model\.' takes it off"):
        xpconv.load_weights(other, tmp_path / "last.safetensors")
    xpconv.load_weights(other, tmp_path / "last.safetensors", prefix="model.")
    assert_equal(other, host(network))


def test_dtypes(tmp_path):
    """Exactly or not at all, unless asked."""
    xpconv.save_weights(make(1), tmp_path / "single")
    xpconv.save_weights(make(1, dtype="float64"), tmp_path / "double")
    xpconv.save_weights(make(1).to(dtype="float16"), tmp_path / "half")
    network = make(dtype="float64")
    for name in ("half", "single", "double"):
        xpconv.load_weights(network, tmp_path / name)
        assert network.fc.weight.data.dtype == np.float64
    assert_equal(network, host(make(1, dtype="float64")))
    narrow = make()
    for strict in (True, False):
        with pytest.raises(WeightsError, match=r"conv.weight: float64 would be rounded to float32.*cast=True does so"):
            xpconv.load_weights(narrow, tmp_path / "double", strict=strict)
    assert_equal(narrow, host(make()))
    xpconv.load_weights(narrow, tmp_path / "double", cast=True)
    assert_equal(narrow, host(make(1)))
    assert narrow.fc.weight.data.dtype == np.float32


def test_what_a_dtype_cannot_hold(tmp_path):
    wide = make(dtype="float64")
    wide.fc.bias.data = np.array([1.0, 1e300, 2.0])
    xpconv.save_weights(wide, tmp_path / "w")
    network = make()
    with pytest.raises(WeightsError, match=r"w: fc\.bias: its values are out of the range of float32"):
        xpconv.load_weights(network, tmp_path / "w", cast=True)
    assert_equal(network, host(make()))
    wide.fc.bias.data = np.array([np.nan, np.inf, 2.0])  # they are what they are in every dtype
    xpconv.save_weights(wide, tmp_path / "w")
    xpconv.load_weights(network, tmp_path / "w", cast=True)
    np.testing.assert_array_equal(network.fc.bias.data, [np.nan, np.inf, 2.0])


def test_integers(file, tmp_path):
    """Of any width that holds them, never for numbers with a fraction."""
    _, state = file
    for count, message in (
        (np.array(9, np.int16), None),
        (np.array(2**63, np.uint64), "bn.num_batches_tracked: its values are out of the range of int64"),
        (np.array(9.0, np.float32), "bn.num_batches_tracked: expected int64, got float32"),
        (np.array(True), "bn.num_batches_tracked: expected int64, got bool"),
    ):
        contents = {**state, "bn.num_batches_tracked": count}
        (tmp_path / "w").write_bytes(b"".join(_safetensors.encode(contents, {})))
        network = make()
        if message is None:
            xpconv.load_weights(network, tmp_path / "w")
            assert network.bn.num_batches_tracked == 9
            assert network.bn.num_batches_tracked.dtype == np.int64
            continue
        with pytest.raises(WeightsError, match=message):
            xpconv.load_weights(network, tmp_path / "w", cast=True)


def test_wrong_arguments(file, tmp_path):
    path, _ = file
    with pytest.raises(TypeError, match="model: expected a Layer, got dict"):
        xpconv.load_weights({}, path)
    with pytest.raises(TypeError, match="model: expected a Layer, got str"):
        xpconv.save_weights("net", path)
    with pytest.raises(TypeError, match="prefix: expected a string, got 3"):
        xpconv.load_weights(make(), path, prefix=3)
    with pytest.raises(WeightsError, match="is not a file of PyTorch, which key='ema' is for"):
        xpconv.load_weights(make(), path, key="ema")
    for suffix in ("pt", "pth", "PTH", "bin", "ckpt"):
        with pytest.raises(ValueError, match="path: weights are written as safetensors"):
            xpconv.save_weights(make(), tmp_path / f"w.{suffix}")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        xpconv.load_weights(make(), tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        xpconv.load_weights(make(), tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        xpconv.save_weights(make(), tmp_path / "nowhere" / "w")


# ---- files that are damaged or attack ---------------------------------------------------------------------------


@pytest.mark.parametrize("contents", [b"", b"hello, world", b"\0" * 100, b"\x93NUMPY", b"{" * 30])
def test_other_kinds_of_files(tmp_path, contents):
    (tmp_path / "w").write_bytes(contents)
    with pytest.raises(WeightsError, match="w: not a safetensors file, truncated or damaged"):
        xpconv.load_weights(make(), tmp_path / "w")


def test_a_header_of_any_length_is_no_pickle(tmp_path):
    """Its first bytes may be those that pickles begin with."""
    network = layers.Linear(2, 2, rng=0)
    arrays = host(network)
    for wanted in (0x280, 0x480):
        empty = len(next(iter(_safetensors.encode(arrays, {"pad": ""})))) - 8
        text = b"".join(_safetensors.encode(arrays, {"pad": "x" * (wanted - empty)}))
        assert text[:2] in (b"\x80\x02", b"\x80\x04")
        (tmp_path / "w").write_bytes(text)
        xpconv.load_weights(layers.Linear(2, 2), tmp_path / "w")


def test_control_characters_do_not_reach_the_terminal(file, tmp_path):
    _, state = file
    name = "\x1b[31mred" + "x" * 1000
    (tmp_path / "w").write_bytes(b"".join(_safetensors.encode({**state, name: np.zeros(1)}, {})))
    with pytest.raises(WeightsError, match="unexpected") as caught:
        xpconv.load_weights(make(), tmp_path / "w")
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_long_lists_end(file, tmp_path):
    _, state = file
    many = {f"x{i}": np.zeros(1) for i in range(1000)}
    (tmp_path / "w").write_bytes(b"".join(_safetensors.encode({**state, **many}, {})))
    with pytest.raises(WeightsError, match=r"x18, x19 and 980 more$"):
        xpconv.load_weights(make(), tmp_path / "w")


class Attack:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["zip", "legacy", "nested", "pickle-2", "pickle-4", "pickle-5"])
def test_hostile_pickles_run_nothing(torch, twin, tmp_path, kind):
    path, mark = tmp_path / "w.pth", tmp_path / "was-here"
    attack = Attack(mark)
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps({"fc.weight": attack}, protocol=int(kind[-1])))
    else:
        contents = {**twin.state_dict(), "fc.weight": attack}
        contents = {"state_dict": twin.state_dict(), "extra": [attack]} if kind == "nested" else contents
        torch.save(contents, path, _use_new_zipfile_serialization=kind != "legacy")
    network = make()
    before = host(network)
    with pytest.raises(WeightsError, match=r"w\.pth: ") as caught:
        xpconv.load_weights(network, path)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # PyTorch's advice is to read it without the check
    if kind in ("zip", "legacy", "nested"):
        assert "holds Python objects other than tensors, such as posix.mkdir" in str(caught.value)
    assert_equal(network, before)
    # the attack is one
    if kind.startswith("pickle"):
        pickle.loads(path.read_bytes())
    else:
        torch.load(path, weights_only=False)
    assert mark.exists()


def test_whole_modules_are_refused(torch, twin, tmp_path):
    torch.save(twin, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"holds Python objects other than tensors, such as torch\.nn\.modules"):
        xpconv.load_weights(make(), tmp_path / "w.pth")


def test_damaged_files_of_torch(torch, twin, tmp_path):
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save(twin.state_dict(), buffer, _use_new_zipfile_serialization=zipped)
        contents = buffer.getvalue()
        for length in (10, 100, len(contents) // 2, len(contents) - 1):
            (tmp_path / "w.pt").write_bytes(contents[:length])
            with pytest.raises(WeightsError, match=r"w\.pt: "):
                xpconv.load_weights(make(), tmp_path / "w.pt")


def test_an_archive_on_several_disks(torch, twin, tmp_path):
    """Which already the question whether it is an archive fails for."""
    buffer = io.BytesIO()
    torch.save(twin.state_dict(), buffer)
    contents = bytearray(buffer.getvalue())
    locator = contents.rindex(b"PK\x06\x07")
    contents[locator + 16] = 9
    (tmp_path / "w.pt").write_bytes(contents)
    with pytest.raises(WeightsError, match=r"w\.pt: not a file of weights of PyTorch, truncated or damaged: .* disks"):
        xpconv.load_weights(make(), tmp_path / "w.pt")


def test_other_archives(torch, twin, tmp_path):
    np.savez(tmp_path / "w.npz", w=np.zeros(3))
    with pytest.raises(WeightsError, match="not a file of weights of PyTorch"):
        xpconv.load_weights(make(), tmp_path / "w.npz")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(WeightsError, match="a compressed archive, which PyTorch's files are not"):
        xpconv.load_weights(make(), tmp_path / "bomb.pt")


def test_a_small_file_that_claims_a_huge_tensor(torch, twin, tmp_path):
    """Its shape does not fit, which is seen before any memory is taken."""
    state = {**twin.state_dict(), "fc.weight": torch.zeros(1).expand(1 << 30, 1 << 20)}
    torch.save(state, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 10_000
    with pytest.raises(WeightsError, match=r"fc.weight: \(1073741824, 1048576\) in the file"):
        xpconv.load_weights(make(), tmp_path / "w.pt")


def test_other_things_in_files_of_torch(torch, twin, tmp_path):
    state = twin.state_dict()
    for contents, message in (
        ([1, 2, 3], "expected a state_dict, which is a dictionary, got list"),
        ({}, "no state_dict in it"),
        ({"a": {"b": 1}}, "no state_dict in it, .* there are a"),
        ({**state, "fc.bias": "hello"}, "fc.bias: expected an array, got an object of type str"),
        ({**state, "fc.bias": torch.zeros(3).to_sparse()}, "fc.bias: expected an array, got a tensor of torch.sparse"),
        ({**state, "fc.bias": torch.zeros(3, dtype=torch.complex64)}, "fc.bias: expected float32, got complex64"),
        ({**state, 5: torch.zeros(3)}, "unexpected: 5"),
    ):
        torch.save(contents, tmp_path / "w.pt")
        with pytest.raises(WeightsError, match=message):
            xpconv.load_weights(make(), tmp_path / "w.pt")


def test_metadata_says_pytorch(file):
    """What some readers ask for."""
    path, _ = file
    contents = path.read_bytes()
    header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
    assert header["__metadata__"] == {"format": "pt"}


def test_a_changed_byte_of_the_header_is_noticed_or_harmless(file):
    """A file that still loads has the same arrays: spaces, or the metadata, have changed."""
    path, state = file
    contents, random = path.read_bytes(), np.random.default_rng(4)
    header = 8 + int.from_bytes(contents[:8], "little")
    refused = 0
    for place in random.integers(0, header, size=300):
        changed = bytearray(contents)
        changed[place] = random.integers(256)
        path.write_bytes(changed)
        network = make()
        try:
            xpconv.load_weights(network, path)
        except WeightsError:
            refused += 1
            assert_equal(network, host(make()))
        else:
            assert_equal(network, state)
    assert refused > 200
