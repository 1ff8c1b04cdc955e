"""Recorded work: the recording of the stand-in, and how CuPy is led through one, on a model that notes the calls."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv._gpu import graph
from xpconv.backends import CaptureError, load_backend
from xpconv.testing.cuda_host import HostArray, HostReadError, no_host_reads


def device(values, dtype=np.float64):
    return np.array(values, dtype).view(HostArray)


class TestStandIn:
    def test_recording_does_nothing_and_a_replay_does_all(self, host):
        state, x = device([1.0, 2.0]), device([10.0, 20.0])

        def work():
            state[...] = state * 2
            state[0] += 1
            return state + x, host.xp.sum(x), x[::-1]

        recorded = host.capture(work)
        assert state.tolist() == [1.0, 2.0]
        total, summed, turned = recorded.result
        assert np.isnan(np.asarray(total)).all()  # not there yet
        assert turned.tolist() == [20.0, 10.0]  # a view of what is there
        recorded.replay()
        assert state.tolist() == [3.0, 4.0]
        assert (total.tolist(), float(summed)) == ([13.0, 24.0], 30.0)
        x[...] = 0.0
        recorded.replay()
        assert state.tolist() == [7.0, 8.0]
        assert (total.tolist(), float(summed), turned.tolist()) == ([7.0, 8.0], 0.0, [0.0, 0.0])

    def test_kernels_and_products(self, host, rng):
        x, w = (host.asarray(rng.normal(size=shape)) for shape in ((3, 2, 6, 5), (4, 2, 3, 3)))

        def work():
            y, cache = F.conv2d(x, w, padding=1)
            y, relu = F.relu(y)
            return y, *F.conv2d_backward(F.relu_backward(y, relu), cache)[:2]

        recorded = host.capture(work)
        x[...] = host.asarray(rng.normal(size=x.shape))
        recorded.replay()
        for got, expected in zip(recorded.result, work(), strict=True):
            np.testing.assert_array_equal(np.asarray(got), np.asarray(expected))

    def test_functions_of_numpy_that_copy(self, host):
        x = device([[3.0, 1.0], [2.0, 5.0]])
        xp = host.xp

        def work():
            return [
                xp.argmax(x, axis=1), xp.concat([x, x]), xp.where(x > 2, x, 0.0), xp.astype(x, "float32"),
                xp.asarray(x, copy=True), np.sort(x, axis=1), x[[1, 0]], x.T.copy(), xp.reshape(x.T, (4,)),
                x.mean(axis=0), xp.zeros_like(x) + 1, np.add.reduce(x), xp.take(x, device([1], np.int64), axis=0),
                x.max(), xp.full((2,), 7.0), xp.cumulative_sum(x[0]), np.divmod(x, 2)[1],
            ]  # fmt: skip

        recorded = host.capture(work)
        x[...] = device([[0.0, 4.0], [9.0, 1.0]])
        recorded.replay()
        for i, (got, expected) in enumerate(zip(recorded.result, work(), strict=True)):
            assert type(got) is HostArray
            np.testing.assert_array_equal(np.asarray(got), np.asarray(expected), err_msg=str(i))

    @pytest.mark.parametrize(
        ("work", "message"),
        [
            (lambda x: float(x[0]), r"float\(\) reads a value of the device"),
            (lambda x: int(x.sum()), r"int\(\) reads a value"),
            (lambda x: bool((x > 0).all()), r"bool\(\) reads a value"),
            (lambda x: x[0].item(), r"item\(\) reads a value"),
            (lambda x: x.tolist(), r"tolist\(\) reads a value"),
            (lambda x: xpconv.to_numpy(x), "to_numpy reads a value"),
            (lambda x: np.allclose(x, x), "allclose reads a value"),
            (lambda x: x[x > 0], "indexing by a mask reads a value"),
            (lambda x: np.nonzero(x), "nonzero reads a value"),
            (lambda x: x * np.ones(2), "multiply of an array of the host brings"),
            (lambda x: x.__setitem__(0, np.ones(1)), "an assignment of an array of the host brings"),
            (lambda x: xpconv.asarray([1.0], backend="cuda-host"), "asarray brings values of the host"),
            (lambda x: load_backend("cuda-host").rng(0).normal((2,)), "asarray brings values of the host"),
            (lambda x: load_backend("cuda-host").capture(lambda: None), "a recording within a recording"),
            (lambda x: 1 / 0, "ZeroDivisionError: division by zero"),
        ],
    )
    def test_what_a_graph_cannot_do(self, host, work, message):
        x = device([1.0, 2.0])

        def all_work():
            x[...] = 0.0
            work(x)

        with pytest.raises(CaptureError, match=message):
            host.capture(all_work)
        assert x.tolist() == [1.0, 2.0]
        host.capture(lambda: x + 1).replay()  # nothing is left of the failure

    def test_no_host_reads(self, host):
        x = device([1.0])
        with no_host_reads():
            y = x * 2
            with pytest.raises(HostReadError, match=r"float\(\) reads a value of the device, and waits for it"):
                float(y[0])
        assert float(y[0]) == 2


# ---- CuPy ------------------------------------------------------------------------------------------------------------


class Stream:
    def __init__(self, events, non_blocking=False):
        events.append(f"stream non_blocking={non_blocking}")
        self.events = events

    def __enter__(self):
        self.events.append("enter stream")

    def __exit__(self, *exception):
        self.events.append("leave stream")

    def begin_capture(self, mode):
        self.events.append(f"begin {mode}")

    def end_capture(self):
        self.events.append("end")
        if "spoilt" in self.events:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")
        return SimpleNamespace(launch=lambda: self.events.append("launch"))


@pytest.fixture
def gpu():
    events = []

    @contextlib.contextmanager
    def noted(name):
        events.append(f"enter {name}")
        yield
        events.append(f"leave {name}")

    pool = SimpleNamespace(malloc="malloc of a pool of its own")
    cuda = SimpleNamespace(
        MemoryPool=lambda: pool,
        Stream=lambda **options: Stream(events, **options),
        using_allocator=noted,
        runtime=SimpleNamespace(streamCaptureModeRelaxed="relaxed"),
    )
    return SimpleNamespace(
        _cupy=SimpleNamespace(cuda=cuda), running=lambda: noted("device"), events=events, pool=pool,
        blas=SimpleNamespace(take_workspace=lambda: events.append("take workspace") or "workspace"),
        why_no_blas="no cuBLAS here",
    )  # fmt: skip


def test_the_course_of_a_capture(gpu):
    recorded = graph.CupyCapture(gpu, lambda: gpu.events.append("work") or 5)
    assert recorded.result == 5
    assert gpu.events == [
        "enter device", f"enter {gpu.pool.malloc}", "stream non_blocking=True", "enter stream", "begin relaxed", "work",
        "end", "take workspace", "leave stream", f"leave {gpu.pool.malloc}", "leave device",
    ]  # fmt: skip
    assert recorded._pool is gpu.pool  # else its memory would go to others
    assert recorded._workspace == "workspace"
    gpu.events.clear()
    recorded.replay()
    assert gpu.events == ["enter device", "launch", "leave device"]


def test_a_capture_that_fails_is_ended(gpu):
    def work():
        gpu.events.append("spoilt")
        raise OSError("cudaErrorStreamCaptureUnsupported")

    with pytest.raises(CaptureError, match="OSError: cudaErrorStreamCaptureUnsupported"):
        graph.CupyCapture(gpu, work)
    assert gpu.events.count("end") == 1
    # its stream is gone, and another may come to have its address
    assert gpu.events.index("end") < gpu.events.index("take workspace") < gpu.events.index("leave stream")
    graph.check_transfer("nothing")  # as the recording is over
    gpu.events.clear()
    with pytest.raises(CaptureError, match="RuntimeError: cudaErrorStreamCaptureInvalidated"):
        graph.CupyCapture(gpu, lambda: gpu.events.append("spoilt"))
    gpu.events.clear()
    with pytest.raises(KeyboardInterrupt):
        graph.CupyCapture(gpu, lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    assert gpu.events.count("end") == 1


def test_transfers_and_captures_within_a_capture(gpu):
    with pytest.raises(CaptureError, match="asarray brings values of the host to the device"):
        graph.CupyCapture(gpu, lambda: graph.check_transfer("asarray"))
    with pytest.raises(CaptureError, match="a recording within a recording"):
        graph.CupyCapture(gpu, lambda: graph.CupyCapture(gpu, lambda: None))


def test_without_cublas(gpu):
    gpu.blas = None
    with pytest.raises(CaptureError, match="no cuBLAS here"):
        graph.CupyCapture(gpu, lambda: None)
    assert gpu.events == []
