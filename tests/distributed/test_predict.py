"""``xpconv predict --data`` over ranks: the file of one process, to the last bit."""

import csv
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from xpconv import data, layers
from xpconv.cli import main
from xpconv.cli.predict_set import Images, _whole, open_images, predict_set
from xpconv.data.unlabelled import UnlabelledFiles
from xpconv.distributed import DistributedError, SelfComm
from xpconv.training import Trainer, TrainingError

CLASSES = ("low", "middle", 'the "high", ones')
OPTIONS = {"batch_size": 4, "dtype": "float32", "workers": 0}
COMMAND = "import sys; from xpconv.cli import main; sys.exit(main(sys.argv[1:]))"


def make_trainer():
    net = layers.Sequential(layers.Conv2d(1, 4, 3, rng=1), layers.ReLU(), layers.Flatten(), layers.Linear(64, 3, rng=2))
    return Trainer(net, None, None)


def pixels(count):
    return np.random.default_rng(0).normal(size=(count, 1, 6, 6)).astype(np.float32)


def array_images(count):
    return Images(data.ArrayDataset(pixels(count), np.zeros(count, np.int64)), None)


def odds_of(x):
    scores = make_trainer().predict(x).astype(np.float64)
    odds = np.exp(scores)
    return odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("count", [1, 4, 23])
@pytest.mark.parametrize("ranks", [2, 3, 9])
def test_the_file_is_that_of_one_process(run_ranks, tmp_path, count, ranks):
    """Also where there are more ranks than images, or than batches of them."""
    for name in ("p.npy", "p.csv"):
        alone, together = tmp_path / f"alone-{name}", tmp_path / name
        predict_set(SelfComm(), make_trainer(), array_images(count), CLASSES, str(alone), **OPTIONS)
        together.write_text("of an earlier run")
        run_ranks(
            ranks,
            lambda comm, out=together: predict_set(
                comm, make_trainer(), array_images(count), CLASSES, str(out), **OPTIONS
            ),
        )
        assert together.read_bytes() == alone.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone-p.csv", "alone-p.npy", "p.csv", "p.npy"]
    found, wanted = np.load(tmp_path / "p.npy"), odds_of(pixels(count))
    assert (found.dtype, found.shape) == (np.float32, (count, 3))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    with open(tmp_path / "p.csv", newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    assert head == ["image", "class", "probability"]
    assert [int(row[0]) for row in rows] == list(range(count))
    assert [row[1] for row in rows] == [CLASSES[k] for k in wanted.argmax(axis=1)]
    np.testing.assert_allclose([float(row[2]) for row in rows], wanted.max(axis=1), atol=1e-6)


@pytest.fixture
def pictures(tmp_path):
    """A folder of ten images whose mean tells their place in the order of their names."""
    names = ["a/1.png", "a/10.png", "a/2.PNG", "a/b/0.jpg", "b.png", "c,d.png", "e.png", "f.png", "g.png", "h.bmp"]
    for number, name in enumerate(names):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 20 * number, np.uint8)).save(path)
    for other in ("a/notes.txt", ".hidden.png", ".git/x.png"):
        path = tmp_path / "pictures" / other
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    return tmp_path / "pictures", names


def no_test_part():
    raise AssertionError("nobody asks for it")


def open_pictures(folder):
    return open_images(str(folder), (1, 6, 6), no_test_part, allow_outside=False)


def test_image_files_in_the_order_of_their_names(pictures):
    folder, names = pictures
    images = open_pictures(folder)
    assert list(images.files) == names
    assert [images.name(k) for k in range(10)] == names
    assert np.allclose(images.dataset.read(np.arange(10)).mean(axis=(1, 2, 3)), 20 * np.arange(10), atol=2)


def test_links_that_lead_out_of_the_folder(pictures, tmp_path):
    folder, _ = pictures
    Image.fromarray(np.zeros((6, 6), np.uint8)).save(tmp_path / "secret.png")
    (folder / "z.png").symlink_to(tmp_path / "secret.png")
    (folder / "y.png").symlink_to(folder / "b.png")
    with pytest.raises(data.DataError, match=r"z.png: leads to .*secret.png, out of .*pictures; --allow-outside"):
        open_pictures(folder)
    assert len(UnlabelledFiles.below(folder, (1, 6, 6), allow_outside=True)) == 12


def test_folders_without_images_and_arrays_of_another_shape(tmp_path):
    with pytest.raises(data.DataError, match=r"no image files; their names end in \.bmp"):
        open_pictures(tmp_path)
    np.save(tmp_path / "x.npy", np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(data.DataError, match=r"images are \(1, 5, 5\), the network takes \(1, 6, 6\)"):
        open_pictures(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.array(3.0))
    with pytest.raises(data.DataError, match=r"x.npy: .*shape \(\)"):
        open_pictures(tmp_path / "x.npy")


def test_rows_of_an_array(tmp_path):
    np.save(tmp_path / "x.npy", pixels(5))
    images = open_images(str(tmp_path / "x.npy"), (1, 6, 6), no_test_part, allow_outside=False)
    assert np.array_equal(images.dataset.read(np.arange(5)), pixels(5))
    assert images.name(3) == "3"


def test_an_image_that_cannot_be_read(run_ranks, pictures, tmp_path):
    """Of one rank: nothing is written, and what killed ranks have left is gone after the next run."""
    folder, _ = pictures
    good = (folder / "h.bmp").read_bytes()
    (folder / "h.bmp").write_bytes(good[:60])
    out = tmp_path / "p.csv"
    out.write_text("of an earlier run")

    def run(comm):
        predict_set(comm, make_trainer(), open_pictures(folder), CLASSES, str(out), **OPTIONS)

    with pytest.raises(data.DataError, match=r"h.bmp: cannot be read as an image"):
        run_ranks(3, run)
    assert out.read_text() == "of an earlier run"
    assert not list(tmp_path.glob(".*.part"))
    (tmp_path / ".p.csv.rank-17.part").write_text("of a rank that was killed")
    (folder / "h.bmp").write_bytes(good)
    run_ranks(2, run)
    assert out.read_text().count("\n") == 11
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_ranks_that_see_other_images(run_ranks, pictures, tmp_path):
    folder, _ = pictures

    def run(comm):
        images = open_pictures(folder)
        if comm.rank == 1:
            images = images._replace(files=[*images.files[1:], "i.png"])
        predict_set(comm, make_trainer(), images, CLASSES, str(tmp_path / "p.csv"), **OPTIONS)

    with pytest.raises(DistributedError, match=r"what their files are called is .* on rank 0 and .* on rank 1"):
        run_ranks(2, run)


@pytest.mark.parametrize("there", [None, b"abc"])
def test_a_folder_that_ranks_do_not_share(tmp_path, there):
    first, second = tmp_path / "0", tmp_path / "1"
    first.write_bytes(b"0123")
    if there is not None:
        second.write_bytes(there)
    with pytest.raises(DistributedError, match=r"rank 0 does not see the 9 bytes that rank 1 has written"):
        list(_whole([first, second], [4, 9]))
    assert b"".join(_whole([first], [4])) == b"0123"


def test_scores_that_are_not_finite(tmp_path):
    x = pixels(9)
    x[6] = 3e38
    images, trainer = Images(data.ArrayDataset(x, np.zeros(9, np.int64)), None), make_trainer()
    trainer.model[3].weight.data = trainer.model[3].weight.data * np.float32(1e6)
    with np.errstate(all="ignore"), pytest.raises(TrainingError, match="image 6: the scores are not finite"):
        predict_set(SelfComm(), trainer, images, CLASSES, str(tmp_path / "p.npy"), **OPTIONS)
    assert not (tmp_path / "p.npy").exists()


# ---- the command --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a network for images of 8 x 8, and the set that it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    rng = np.random.default_rng(0)
    arrays = {f"x_{part}": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8) for part, n in (("train", 30), ("test", 23))}
    np.savez(folder / "set.npz", **arrays, y_train=np.arange(30) % 3, y_test=np.arange(23) % 3)
    source = str(folder / "set.npz")
    options = ["--model", "small-cnn", "--epochs", "1", "--batch-size", "5", "--quiet", "--threads", "1"]
    assert main(["train", "--data", source, "--out", str(folder / "r"), *options]) == 0
    return str(folder / "r"), source, arrays["x_test"]


@pytest.fixture
def command(tmp_path, monkeypatch, capfd):
    """``status, out, err = command(...)``: xpconv predict in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        status = main(["predict", *map(str, arguments)])
        return status, *capfd.readouterr()

    return call


def test_the_command(command, trained, tmp_path):
    folder, source, x = trained
    status, out, err = command("--run", folder, "--data", source, "--out", "p.csv")
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == "p.csv: predictions of 23 images"
    np.save("x.npy", x)  # the same images without labels
    assert command("--run", folder, "--data", "x.npy", "--out", "q.csv")[0] == 0
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "q.csv").read_bytes()
    status, out, err = command("--run", folder, "--data", "x.npy", "--out", "p.npy", "--json")
    assert (status, err) == (0, "")
    assert '"event": "predictions"' in out
    assert np.load("p.npy").shape == (23, 3)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--data", "x.npy"], "--data: needs --out"),
        (["--data", "x.npy", "--out", "p.txt"], "--out: expected a file .csv .* or .npy .*, got 'p.txt'"),
        (["--data", "x.npy", "--out", "no/p.csv"], "no: no such folder for p.csv"),
        (["--data", "x.npy", "--out", "p.csv", "a.png"], "IMAGE: is for single files, not for --data"),
        (["--data", "x.npy", "--out", "p.csv", "--invert"], "--invert: is for single files"),
        (["--out", "p.csv", "a.png"], "--out: is for the images of --data"),
        (["--data", "x.npy", "--out", "p.csv"], "x.npy: no such file"),
        (["--data", "x.npy", "--out", "p.csv", "--bad-files", "skip"], "unknown option --bad-files"),
    ],
)
def test_the_command_refuses(command, trained, arguments, says):
    status, out, err = command("--run", trained[0], *arguments)
    assert (status, out) == (2, "")
    assert re.fullmatch(rf"xpconv: error: .*{says}.*\n", err), err


def test_the_command_on_ranks(mpiexec, command, trained, tmp_path):
    """All have the weights of rank 0, also where another one finds others under the name of the run."""
    folder, source, _ = trained
    for name in ("r", "late/r", "on"):
        shutil.copytree(folder, tmp_path / name)
    assert main(["train", "--resume", str(tmp_path / "on"), "--epochs", "3", "--quiet", "--threads", "1"]) == 0
    (tmp_path / "on" / "last.safetensors").replace(tmp_path / "late" / "r" / "last.safetensors")
    late = "import os; from mpi4py import MPI; MPI.COMM_WORLD.rank == 1 and os.chdir('late'); "
    arguments = ["--weights", "last", "--data", source]
    job = mpiexec(3, late + COMMAND, "predict", "--run", "r", *arguments, "--out", tmp_path / "p.csv", "--threads", 1)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    out = re.sub(r"\x1b\[\d*[mK]", "", out)  # Open MPI gives rank 0 a terminal
    assert f"{tmp_path}/p.csv: predictions of 23 images\n" in out.replace("\r", "")
    assert out.count("predictions of") == 1
    assert command("--run", "r", *arguments, "--out", "alone.csv")[0] == 0
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()
    assert command("--run", "late/r", *arguments, "--out", "late.csv")[0] == 0
    assert (tmp_path / "p.csv").read_bytes() != (tmp_path / "late.csv").read_bytes()


def test_a_rank_that_meets_a_damaged_image_ends_the_job(mpiexec, trained, pictures, tmp_path):
    pictures[0].joinpath("h.bmp").write_bytes(b"BM, and no more")
    arguments = ["--data", pictures[0], "--out", tmp_path / "p.csv", "--batch-size", 2, "--threads", 1]
    job = mpiexec(2, COMMAND, "predict", "--run", trained[0], *arguments)
    _, err = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "rank 1 of 2: " in err
    assert "h.bmp: cannot be read as an image" in err
    assert not (tmp_path / "p.csv").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_ranks_with_other_weights(mpiexec, trained, tmp_path):
    """A file that is half of the best weights and half of the last ones would look like any other."""
    program = (
        f"from mpi4py import MPI; {COMMAND.replace('argv[1:]', 'argv[1 : len(sys.argv) - 2 * MPI.COMM_WORLD.rank]')}"
    )
    arguments = ["--data", trained[1], "--out", tmp_path / "p.npy", "--threads", 1, "--weights", "last"]
    job = mpiexec(2, program, "predict", "--run", trained[0], *arguments)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2
    assert "the ranks were not started alike: --weights is 'last' on rank 0 and None on rank 1\n" in err
    assert not (tmp_path / "p.npy").exists()


def test_single_files_take_one_process(mpiexec, trained):
    job = mpiexec(2, COMMAND, "predict", "--run", trained[0], "a.png")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2
    assert err.count("xpconv predict with image files takes one process") == 1
