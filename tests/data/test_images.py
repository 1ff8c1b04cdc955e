"""Image files, folders and manifests: what is read, what is refused, and that nothing else is touched."""

import io
import os
import struct
import zlib

import numpy as np
import pytest

from xpconv.data import Batches, DataError, ImageFiles, load, read_image, read_image_folder, read_manifest

image_module = pytest.importorskip("PIL.Image", reason="needs Pillow")

RNG = np.random.default_rng(8)


def picture(height=6, width=5, channels=3):
    pixels = RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)
    return pixels if channels == 3 else pixels[:, :, 0]


def write(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = picture() if pixels is None else pixels
    image_module.fromarray(pixels).save(path, **options)
    return pixels


def png_of_size(width, height):
    """A PNG of a few bytes that claims that size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def truncated(pixels, kind="JPEG"):
    buffer = io.BytesIO()
    image_module.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()[: -len(buffer.getvalue()) // 3]


@pytest.fixture
def folder(tmp_path):
    """cat and dog with 5 and 4 images; the pixels by path."""
    pixels = {}
    for name, count in (("dog", 4), ("cat", 5)):
        for k in range(count):
            path = tmp_path / "set" / name / f"{k}.png"
            pixels[path] = write(path)
    return tmp_path / "set", pixels


def whole(splits):
    """All images and labels of both parts, by path."""
    return {
        path: (image, int(label))
        for part in splits
        for path, (image, label) in zip(part.paths, ((part[k]) for k in range(len(part))), strict=True)
    }


# ---- folders ----------------------------------------------------------------------------------------------------


def test_a_folder_a_class(folder):
    path, pixels = folder
    splits = read_image_folder(path)
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert splits.train.image_shape == (3, 6, 5)
    assert (len(splits.train), len(splits.test)) == (8, 1)
    found = whole(splits)
    assert set(found) == set(pixels)
    for file, (image, label) in found.items():
        np.testing.assert_array_equal(image, pixels[file].transpose(2, 0, 1))
        assert label == ("cat", "dog").index(file.parent.name)
    assert [type(part) for part in load(path)] == [ImageFiles, ImageFiles]


def test_parts_in_folders(tmp_path):
    for part, names in (("train", "abc"), ("test", "ca"), ("val", "b")):
        for name in names:
            write(tmp_path / part / name / "deep" / "1.png", picture(4, 4, 1))
    (tmp_path / "train" / "a" / ".hidden").write_bytes(b"no image")
    (tmp_path / "README.txt").write_text("no class")
    splits = read_image_folder(tmp_path)
    assert splits.train.labels.tolist() == [0, 1, 2]
    assert splits.test.labels.tolist() == [0, 2]
    assert splits.validation.labels.tolist() == [1]
    assert splits.test.classes == ("a", "b", "c")
    assert splits.train.image_shape == (1, 4, 4)  # grey
    for folder in ("c", "a"):
        (tmp_path / "test" / folder / "deep" / "1.png").unlink()
    with pytest.raises(DataError, match="test: no images in its folders"):
        read_image_folder(tmp_path)
    (tmp_path / "test" / "z").mkdir()
    with pytest.raises(DataError, match="z: the training part has no such class; it has a, b, c"):
        read_image_folder(tmp_path)


def test_without_a_test_part_that_of_validation_is_it(tmp_path):
    for part in ("train", "valid"):
        write(tmp_path / part / "a" / "1.png")
    splits = read_image_folder(tmp_path)
    assert [len(part) for part in splits] == [1, 1]
    assert splits.validation is None


def test_bad_files_are_listed_and_refused_or_skipped(folder):
    path, _ = folder
    (path / "cat" / "empty.png").write_bytes(b"")
    (path / "cat" / "text.jpg").write_text("no image")
    (path / "dog" / "cut.jpg").write_bytes(truncated(picture(40, 40)))
    with pytest.raises(DataError) as caught:
        read_image_folder(path)
    message = str(caught.value)
    assert "3 of 12 files are no use; bad='skip' (--bad-files skip) goes on without them" in message
    for name in ("cat/empty.png: cannot be", "cat/text.jpg: cannot be read as an image", "dog/cut.jpg: cannot be read"):
        assert name in message
    splits = read_image_folder(path, bad="skip", image_size=8)
    assert len(splits.train) + len(splits.test) == 9
    skipped = {file.source: file.reason for file in splits.train.skipped}
    assert set(skipped) == {str(path / name) for name in ("cat/empty.png", "cat/text.jpg", "dog/cut.jpg")}
    assert "truncated" in skipped[str(path / "dog" / "cut.jpg")]


def test_a_class_without_images_is_an_error(folder):
    path, _ = folder
    (path / "emu").mkdir()
    with pytest.raises(DataError, match="emu: no images of this class"):
        read_image_folder(path)
    (path / "emu" / "1.png").write_bytes(b"?")
    with pytest.raises(DataError, match="emu: no images of this class"):
        read_image_folder(path, bad="skip")


def test_long_lists_of_bad_files_are_cut(tmp_path):
    for k in range(30):
        (tmp_path / f"{k:02}.png").write_bytes(b"?")
    with pytest.raises(DataError, match=r"30 of 30 files are no use\n(.*\n){20}  and 10 more$"):
        ImageFiles(sorted(tmp_path.iterdir()), [0] * 30, bad="skip")


def test_images_of_several_sizes_need_a_size(folder):
    path, _ = folder
    write(path / "dog" / "wide.png", picture(6, 10))
    with pytest.raises(DataError, match=r"several sizes: 6 x 5 in .*0.png, 6 x 10 in .*wide.png .*--image-size"):
        read_image_folder(path)
    splits = read_image_folder(path, image_size=(4, 8), channels=1)
    assert splits.train.image_shape == splits.test.image_shape == (1, 4, 8)
    x, _ = next(iter(Batches(splits.train, 3)))
    assert x.shape == (3, 1, 4, 8)


def test_links_out_of_the_folder_are_bad(folder, tmp_path):
    path, _ = folder
    write(tmp_path / "elsewhere.png")
    (path / "cat" / "link.png").symlink_to(tmp_path / "elsewhere.png")
    with pytest.raises(DataError, match=r"link.png: leads to .*elsewhere.png, out of"):
        read_image_folder(path)
    assert len(read_image_folder(path, bad="skip").train.skipped) == 1
    splits = read_image_folder(path, allow_outside=True)
    assert len(splits.train) + len(splits.test) == 10


def test_a_pipe_is_not_waited_for(folder):
    path, _ = folder
    os.mkfifo(path / "cat" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe.png: cannot be read as an image: it is a device or a pipe"):
        read_image_folder(path)


# ---- one file ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # Pillow's own word on it
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(png_of_size(9400, 9520))  # 89,488,000 pixels
    with pytest.raises(DataError, match=r"bomb.png: has 9400 x 9520 pixels, more than 89478485; refused before"):
        read_image(path, (3, 8, 8))
    path.write_bytes(png_of_size(60000, 60000))
    with pytest.raises(DataError, match=r"bomb.png"):
        ImageFiles([path], [0], image_size=8)
    write(path, picture(20, 20))
    with pytest.raises(DataError, match="has 20 x 20 pixels, more than 399"):
        ImageFiles([path], [0], max_pixels=399)


def test_formats_that_are_programs_are_refused(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    path = tmp_path / "program.png"
    path.write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(%pipe%touch x) (w) file\nshowpage\n"
    )
    with image_module.open(path) as opened:  # Pillow by itself takes it for what it is
        assert opened.format == "EPS"
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(arguments))
    with pytest.raises(DataError, match=r"program.png: cannot be read as an image"):
        read_image(path, (3, 8, 8))
    assert not started


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_no_damage_gets_through_as_another_error(tmp_path, kind):
    path = tmp_path / "file"
    buffer = io.BytesIO()
    try:
        image_module.fromarray(picture(20, 20)).save(buffer, kind)
    except (OSError, KeyError):
        pytest.skip("Pillow was built without it")
    content = buffer.getvalue()
    rng = np.random.default_rng(3)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged[: rng.integers(1, len(content) + 1)]))
        try:
            outcomes.append(read_image(path, (3, 8, 8)).shape)
        except DataError as error:
            outcomes.append(str(error).partition(":")[0])
    assert {str(path)} <= set(outcomes) <= {str(path), (3, 8, 8)}
    path.write_bytes(content)
    assert read_image(path, (3, 8, 8)).any()


def test_large_jpegs_are_unpacked_small(tmp_path):
    y, x = np.mgrid[0:512, 0:512]
    smooth = np.stack([x // 2, y // 2, (x + y) // 4], axis=2).astype(np.uint8)
    write(tmp_path / "a.jpg", smooth, quality=95)
    write(tmp_path / "a.png", smooth)
    small, exact = (read_image(tmp_path / name, (3, 32, 32)).astype(int) for name in ("a.jpg", "a.png"))
    assert np.abs(small - exact).max() <= 6
    striped = smooth // 2 + np.uint8(80) * (x[:, :, None] // 8 % 2).astype(np.uint8)
    write(tmp_path / "a.jpg", striped, quality=95)
    write(tmp_path / "a.png", striped)
    large, exact = (read_image(tmp_path / name, (3, 200, 200)).astype(int) for name in ("a.jpg", "a.png"))
    assert np.abs(large - exact).mean() <= 3  # no detail is lost that there is room for


def test_a_file_that_went_bad_is_named_where_its_batch_is_due(folder):
    path, _ = folder
    train = read_image_folder(path).train
    train.paths[6].write_bytes(b"")
    epoch = Batches(train, 2, shuffle=False, workers=2).epoch(0)
    for _ in range(3):
        next(epoch)
    with pytest.raises(DataError, match=f"{train.paths[6].name}: cannot be read as an image"):
        next(epoch)


def test_workers_change_no_bit_of_files(folder):
    path, _ = folder
    train = read_image_folder(path, workers=0).train
    expected = [(x, y) for x, y in Batches(train, 3, seed=4)]
    for workers in (1, 3):
        for (x, y), (u, v) in zip(Batches(train, 3, seed=4, workers=workers), expected, strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)
    np.testing.assert_array_equal(train.in_memory().images, train.read(np.arange(len(train))))


# ---- manifests --------------------------------------------------------------------------------------------------


@pytest.fixture
def listed(tmp_path):
    """A folder with images 0.png to 9.png, and a function that writes a manifest there."""
    for k in range(10):
        write(tmp_path / "files" / f"{k}.png", np.full((4, 4, 3), k, np.uint8))

    def make(text, name="list.csv"):
        path = tmp_path / "files" / name
        path.write_text(text, encoding="utf-8")
        return path

    return make


def test_manifest_of_numbers_and_parts(listed):
    path = listed(
        "split,Path,Label,note\n" + "".join(f"{'test' if k > 6 else 'train'},{k}.png,{k % 3},x\n" for k in range(10))
    )
    splits = read_manifest(path)
    assert splits.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert splits.test.labels.tolist() == [1, 2, 0]
    assert splits.train.classes == ("0", "1", "2")
    assert splits.test[1][0].max() == 8
    assert load(path).train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_manifest_of_names(listed):
    path = listed(
        "\ufefffile\tclass\n" + "".join(f"{k}.png\t{'ill' if k % 2 else 'fine, so far'}\n" for k in range(10)), "a.tsv"
    )
    splits = read_manifest(path)
    assert splits.train.classes == ("fine, so far", "ill")
    assert sorted(splits.train.labels.tolist()) == [0] * 4 + [1] * 4
    assert sorted(splits.test.labels.tolist()) == [0, 1]
    assert all(splits.train[k][0].max() % 2 == splits.train.labels[k] for k in range(8))


def test_manifest_of_numbers_with_names(listed):
    rows = "".join(f"{k}.png,{k % 2},{'odd' if k % 2 else 'even'},{('train', 'val')[k > 7]}\n" for k in range(10))
    splits = read_manifest(listed("path,label,class_name,split\n" + rows))
    assert splits.train.classes == ("even", "odd")
    assert [len(part) for part in splits] == [8, 2]
    with pytest.raises(DataError, match="line 3: label 0 is called 'b' here and 'a' in line 2"):
        read_manifest(listed("path,label,class\n0.png,0,a\n1.png,0,b\n"))
    with pytest.raises(DataError, match="several labels are called 'a'"):
        read_manifest(listed("path,label,class\n0.png,0,a\n1.png,1,a\n"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "cat",
            r"line 3: label: expected a whole number from 0 to 65535, got 'cat'; names belong into a column called",
        ),
        ("1.5", "line 3: label: expected a whole number from 0 to 65535, got '1.5'"),
        ("nan", "line 3: label: expected .* got 'nan'"),
        ("-1", "line 3: label: expected .* got '-1'"),
        ("", "line 3: label: expected .* got ''"),
        ("65536", "line 3: label: expected .* got '65536'"),
        ("9" * 5000, "line 3: label: expected .* got '999"),
        ("٣", "line 3: label: expected .* got '٣'"),
    ],
)
def test_labels_that_are_no_numbers(listed, value, message):
    path = listed(f"path,label\n0.png,0\n1.png,{value}\n" + "".join(f"{k}.png,1\n" for k in range(2, 10)))
    with pytest.raises(DataError, match=message):
        read_manifest(path)
    skipped = read_manifest(path, bad="skip").train
    assert [file.source for file in skipped.skipped] == [f"{path}, line 3"]


@pytest.mark.parametrize(
    "given", ["../outside.png", "sub/../../outside.png", "{absolute}", "link.png", "linked/outside.png"]
)
def test_no_path_leads_out_of_the_folder(listed, tmp_path, given):
    write(tmp_path / "outside.png", np.full((4, 4, 3), 99, np.uint8))
    (tmp_path / "files" / "link.png").symlink_to("../outside.png")
    (tmp_path / "files" / "linked").symlink_to(tmp_path)
    (tmp_path / "files" / "sub").mkdir()
    given = given.replace("{absolute}", str(tmp_path / "outside.png"))
    path = listed(f"path,label\n{given},1\n" + "".join(f"{k}.png,0\n" for k in range(10)))
    with pytest.raises(DataError, match=r"line 2: path: .*; allow_outside \(--allow-outside\) permits it"):
        read_manifest(path)
    splits = read_manifest(path, bad="skip")
    assert len(splits.train.skipped) == 1
    assert splits.train.in_memory().images.max() < 99
    allowed = read_manifest(path, allow_outside=True)
    assert max(part.in_memory().images.max() for part in allowed) == 99


def test_absolute_paths_are_by_choice(listed, tmp_path):
    paths = [tmp_path / "files" / f"{k}.png" for k in range(10)]
    path = listed("path,label\n" + "".join(f"{file},0\n" for file in paths))
    with pytest.raises(DataError, match="line 2: path: expected one relative to the folder of the manifest, got"):
        read_manifest(path)
    assert len(read_manifest(path, allow_outside=True).train) == 8


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a line of column names with path .* got nothing"),
        ("path,label\n", "lists no images"),
        ("a,b\n0.png,1\n", r"expected a line of column names with path \(file, filename, image\) .* got a, b"),
        ("path\n0.png\n", "expected a line of column names"),
        ("path,file,label\n0.png,0.png,1\n", "expected one column of path, file, .* got path, file"),
        ("path,label\n0.png\n", "line 2: expected 2 fields, as many as there are column names, got 1"),
        ("path,label\n0.png,1,2\n", "line 2: expected 2 fields"),
        ('path,label\n"0.png,1\n', "expected a CSV file in UTF-8: unexpected end of data"),
        ("path,label\n" + "x" * 200_000 + ",1\n", "expected a CSV file in UTF-8: field larger"),
        ("path,label\n,1\n", "line 2: path: expected the path of an image, got ''"),
        ("path,label\na\0b,1\n", "line 2: path: expected the path|expected a CSV file"),
        ("path,label\nmissing.png,1\n", "missing.png: no such file"),
        ("path,class\n0.png,\n", "line 2: class: expected a name, got ''"),
        ("path,label,split\n0.png,1,dev\n", "line 2: split: expected train, test or validation, got 'dev'"),
        ("path,label,split\n0.png,1,test\n", "lists no images of the split train"),
        ("path,label\n0.png,0\n", "expected at least 5 images, of which every fifth is for testing"),
    ],
)
def test_bad_manifests(listed, text, message):
    with pytest.raises(DataError, match=message):
        read_manifest(listed(text))


def test_a_manifest_that_is_no_text(listed):
    path = listed("")
    path.write_bytes(b"\xff\xfe\x00path,label\n")
    with pytest.raises(DataError, match="expected a CSV file in UTF-8"):
        read_manifest(path)
    with pytest.raises(DataError, match=r"gone.csv: no such file"):
        read_manifest(path.with_name("gone.csv"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bad": "ignore"}, "bad: expected one of refuse, skip, got 'ignore'"),
        ({"channels": 4}, "channels: expected 1, 3 or None, got 4"),
        ({"image_size": 0}, "image_size: must be at least 1, got 0"),
        ({"max_pixels": 0}, "max_pixels: must be at least 1, got 0"),
    ],
)
def test_bad_arguments(folder, options, message):
    path, _ = folder
    with pytest.raises(ValueError, match=message):
        read_image_folder(path, **options)


def test_options_are_for_sets_that_have_them(folder, listed):
    path, _ = folder
    with pytest.raises(ValueError, match=r"labels: is for a .npy file, not for"):
        load(path, labels="a.npy")
    with pytest.raises(ValueError, match="image_size: is for image files, not for 'fashion-mnist-small', got 8"):
        load("fashion-mnist-small", image_size=8)
    assert load(path, image_size=3, bad="skip", channels=1).train.image_shape == (1, 3, 3)
