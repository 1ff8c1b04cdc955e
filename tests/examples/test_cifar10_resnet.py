"""The example that trains a residual network on CIFAR-10, on files of its own making."""

import re


def test_it_learns(example, capsys):
    accuracy = example("cifar10_resnet.py").main(["--small"])
    out = capsys.readouterr().out
    losses = [float(loss) for loss in re.findall(r"epoch \d: loss ([\d.]+),", out)]
    assert len(losses) == 4
    assert losses[-1] < losses[0] / 2
    assert accuracy > 0.3  # of ten classes
    assert f"test accuracy {accuracy:.4f}" in out


def test_its_data_are_files_of_cifar10(example, tmp_path):
    example("cifar10_resnet.py").write_noise(tmp_path, 3)
    assert (tmp_path / "test_batch.bin").stat().st_size == 3 * 3073
